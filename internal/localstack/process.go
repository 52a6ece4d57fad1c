package localstack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a program that runs in the background and logs to a file.
type process struct {
	name       string
	program    string
	executable string // what the program replaces itself with, where it is a script
	args       []string
	env        []string
	dir        string // of its log and of its process id, <name>.log and <name>.pid
	tied       bool   // dies with this process

	pid  int
	done chan struct{} // closed when a process that this one started has ended
}

// start starts the program. The kernel kills a tied one when this process ends in any way.
func (p *process) start() error {
	log, err := os.OpenFile(p.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("open log of %s: %w", p.name, err)
	}
	defer log.Close()
	cmd := exec.Command(p.program, p.args...)
	cmd.Env = append(os.Environ(), p.env...)
	cmd.Dir = p.dir
	cmd.Stdout, cmd.Stderr = log, log
	// A session of its own, so that its owner stops it, and not an interrupt at the terminal.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if p.tied {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	started := make(chan error, 1)
	p.done = make(chan struct{})
	go func() {
		defer close(p.done)
		// The kernel ties the child to the thread that started it, so this thread must stay.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	p.pid = cmd.Process.Pid
	if err := os.WriteFile(p.pidFile(), []byte(strconv.Itoa(p.pid)), 0o644); err != nil {
		p.signal(syscall.SIGKILL)
		return fmt.Errorf("write process id of %s: %w", p.name, err)
	}
	return nil
}

// find takes over a running process of the same name and program that an earlier process started.
func (p *process) find() bool {
	text, err := os.ReadFile(p.pidFile())
	if err != nil {
		return false
	}
	p.pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
	return err == nil && p.alive()
}

// alive reports whether it runs. Process ids are used again, so the program must be the same.
func (p *process) alive() bool {
	if p.pid == 0 {
		return false
	}
	if p.done != nil {
		select {
		case <-p.done:
			return false
		default:
			return true
		}
	}
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.pid))
	if err != nil {
		return false
	}
	program, err := filepath.EvalSymlinks(cmp.Or(p.executable, p.program))
	return err == nil && strings.TrimSuffix(exe, " (deleted)") == program
}

// kill ends it at once.
func (p *process) kill() {
	if p.alive() {
		p.signal(syscall.SIGKILL)
		p.await(5 * time.Second)
	}
	_ = os.Remove(p.pidFile())
}

// stop asks it to end, and kills it after grace.
func (p *process) stop(grace time.Duration) {
	if p.alive() {
		p.signal(syscall.SIGTERM)
		p.await(grace)
	}
	p.kill()
}

// await waits until it has ended, at most for limit.
func (p *process) await(limit time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	_ = WaitFor(ctx, p.name, func(context.Context) error {
		if p.alive() {
			return errors.New("it still runs")
		}
		return nil
	})
}

func (p *process) signal(s syscall.Signal) { _ = syscall.Kill(p.pid, s) }

func (p *process) logFile() string { return filepath.Join(p.dir, p.name+".log") }
func (p *process) pidFile() string { return filepath.Join(p.dir, p.name+".pid") }

// ready waits until check passes. If the process ends first, it fails with the end of the log.
func (p *process) ready(ctx context.Context, check func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var ended error
	err := WaitFor(ctx, p.name+" to be ready", func(ctx context.Context) error {
		if !p.alive() {
			ended = fmt.Errorf("%s has ended: %s", p.name, p.logTail())
			cancel()
			return ended
		}
		return check(ctx)
	})
	if ended != nil {
		return ended
	}
	if err != nil {
		return fmt.Errorf("%w (its log: %s)", err, p.logFile())
	}
	return nil
}

func (p *process) logTail() string {
	text, err := os.ReadFile(p.logFile())
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text[max(0, len(text)-2000):]))
}
