package participanttest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
)

// Process runs a participant as a program of its own, so that the kit can kill it. An adapter offers Kill and Start as Crash and
// Restart.
type Process struct {
	// Command makes the program, anew for each start. As the first line of its standard output it must write the URL that it serves
	// on, once calls can come. It must itself be the process that serves: a shell script around it ends with exec. Its standard
	// input ends when its starter does, killed or not: a program that ends then, too, is never left behind.
	Command func() *exec.Cmd

	mu     sync.Mutex
	url    string
	cmd    *exec.Cmd
	exited chan struct{} // closed when cmd has ended
}

// Start starts the program and returns when it serves. Only Kill ends the program, not ctx.
func (p *Process) Start(ctx context.Context) error {
	cmd := p.Command()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("start participant: %w", err)
	}
	if _, err := cmd.StdinPipe(); err != nil {
		return fmt.Errorf("start participant: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start participant: %w", err)
	}
	url, exited := make(chan string, 1), make(chan struct{})
	go func() {
		out := bufio.NewReader(stdout)
		line, err := out.ReadString('\n')
		if err == nil {
			url <- strings.TrimSpace(line)
		}
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait() // It was killed, so its end says nothing.
		close(exited)
	}()
	p.mu.Lock()
	p.cmd, p.exited = cmd, exited
	p.mu.Unlock()
	select {
	case u := <-url:
		p.mu.Lock()
		defer p.mu.Unlock()
		p.url = u
		return nil
	case <-exited:
		return errors.New("start participant: it ended before it told its URL")
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("start participant: %w", ctx.Err()), p.Kill(context.WithoutCancel(ctx)))
	}
}

// Kill kills the program by SIGKILL and returns when it is dead. A program that does not run is dead already.
func (p *Process) Kill(context.Context) error {
	p.mu.Lock()
	cmd, exited := p.cmd, p.exited
	p.mu.Unlock()
	if cmd == nil {
		return nil
	}
	_ = cmd.Process.Kill() // It fails only if the program has ended by itself.
	<-exited
	return nil
}

// URL is where the program serves, or last served.
func (p *Process) URL() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.url
}
