package localstack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
)

// postgresBinaries is the folder of the newest installed server; Debian keeps them out of PATH.
func postgresBinaries() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/pg_ctl")
	if err != nil {
		return "", err
	}
	if len(found) > 0 {
		sort.Slice(found, func(i, j int) bool { return postgresVersion(found[i]) < postgresVersion(found[j]) })
		return filepath.Dir(found[len(found)-1]), nil
	}
	if path, err := exec.LookPath("pg_ctl"); err == nil {
		return filepath.Dir(path), nil
	}
	return "", errors.New("PostgreSQL is not installed; `make install` installs it")
}

func postgresVersion(path string) int {
	n, _ := strconv.Atoi(strings.Split(path, "/")[4])
	return n
}

// postgresOwner runs the server: this user or, because PostgreSQL refuses root, the user that its package made.
func postgresOwner() (*user.User, error) {
	if os.Geteuid() != 0 {
		return user.Current()
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("find user postgres, which PostgreSQL's package makes: %w", err)
	}
	return u, nil
}

func canEnter(owner *user.User, dir string) bool {
	cmd := exec.Command("test", "-x", dir)
	as(cmd, owner)
	return cmd.Run() == nil
}

func uidOf(u *user.User) int { return number(u.Uid) }
func gidOf(u *user.User) int { return number(u.Gid) }

// number reads the id of a user or group. On Linux it is a number.
func number(id string) int {
	n, err := strconv.Atoi(id)
	if err != nil {
		panic(fmt.Sprintf("id %q is no number", id))
	}
	return n
}

// as makes cmd run as owner, in a folder that owner may enter.
func as(cmd *exec.Cmd, owner *user.User) {
	if uidOf(owner) == os.Geteuid() {
		return
	}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uidOf(owner)), Gid: uint32(gidOf(owner))}}
}

// run runs a program as owner to its end; the error has its output. The output goes to a file, because a server that the program
// leaves behind would hold a pipe open.
func run(ctx context.Context, owner *user.User, program string, args ...string) error {
	out, err := os.CreateTemp("", "localstack-*.log")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = out, out
	as(cmd, owner)
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(out.Name())
		return fmt.Errorf("%s: %w: %s", filepath.Base(program), err, strings.TrimSpace(string(text)))
	}
	return nil
}
