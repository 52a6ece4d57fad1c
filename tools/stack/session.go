package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/checkoutsaga/orchestrator/internal/localstack"
)

// session is a program started in the background, with all that it started in turn. They share a session of the operating system,
// which outlives the program: so what a killed `dapr run` leaves behind is still found.
type session struct {
	Name string `json:"name"`
	ID   int    `json:"id"`
}

// start runs a program in a session of its own with its output in .local/log, and records it for down.
func (s *stack) start(st *state, name string, env map[string]string, program string, args ...string) (session, error) {
	log, err := os.Create(s.local("log", name+".log"))
	if err != nil {
		return session{}, err
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Dir = s.root
	cmd.Env = environment(os.Environ(), env)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return session{}, fmt.Errorf("start %s: %w", name, err)
	}
	go cmd.Wait() // Reaps it while this process lives; afterwards init does.
	started := session{Name: name, ID: cmd.Process.Pid}
	st.Sessions = append(st.Sessions, started)
	return started, s.writeState(*st)
}

// policies are settings that say how our programs work and not with whom, so `make up` passes them on.
var policies = []string{"ORCHESTRATOR_APPROVAL_ABOVE", "ORCHESTRATOR_KEEP_WORKFLOWS", "ORCHESTRATOR_KEEP_CHECKOUTS"}

// environment is this process's own without the settings of our programs, which somebody may have exported, and with values.
func environment(own []string, values map[string]string) []string {
	env := slices.DeleteFunc(slices.Clone(own), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		if slices.Contains(policies, name) {
			return false
		}
		prefix, _, _ := strings.Cut(entry, "_")
		return slices.Contains([]string{"WORKFLOW", "DAPR", "APP", "REDIS", "RABBITMQ", "KAFKA"}, prefix) || slices.Contains(apps, strings.ToLower(prefix))
	})
	for _, key := range sortedKeys(values) {
		env = append(env, key+"="+values[key])
	}
	return env
}

// members are the living processes of the session. After its end somebody else may get the session's number: ours run in the folder
// of this checkout.
func (x session) members(root string) []int {
	var found []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		text, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil {
			continue // It has ended meanwhile.
		}
		// pid (name) state parent group session ...; the name may hold anything, so count from its end.
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		if len(fields) < 4 || fields[0] == "Z" || fields[3] != strconv.Itoa(x.ID) {
			continue
		}
		cwd, err := os.Readlink(filepath.Join(dir, "cwd"))
		if err != nil || cwd != root && !strings.HasPrefix(cwd, root+"/") {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil {
			found = append(found, pid)
		}
	}
	return found
}

// end asks all processes of the session to stop, and kills the rest after grace.
func (x session) end(ctx context.Context, root string, grace time.Duration) error {
	gone := func(ctx context.Context) error {
		if left := x.members(root); len(left) > 0 {
			return fmt.Errorf("%d processes are left", len(left))
		}
		return nil
	}
	for _, step := range []struct {
		signal  syscall.Signal
		timeout time.Duration
	}{{syscall.SIGTERM, grace}, {syscall.SIGKILL, 5 * time.Second}} {
		for _, pid := range x.members(root) {
			if err := syscall.Kill(pid, step.signal); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("signal %s: %w", x.Name, err)
			}
		}
		waitCtx, cancel := context.WithTimeout(ctx, step.timeout)
		err := localstack.WaitFor(waitCtx, x.Name+" to end", gone)
		cancel()
		if err == nil {
			return nil
		}
		if step.signal == syscall.SIGKILL {
			return err
		}
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
