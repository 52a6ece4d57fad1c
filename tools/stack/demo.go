package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/checkoutsaga/orchestrator/internal/localstack"
)

// Exit statuses of the orchestrator's command line that the demonstration expects.
const (
	exitConfirmed = 0
	exitRejected  = 10
)

// demo places orders as a user would, through the command line, shows each one's end and checks it.
func (s *stack) demo(ctx context.Context) error {
	env, err := s.readEnv()
	if err != nil {
		return err
	}
	st, err := s.readState()
	if err != nil {
		return err
	}
	playCtx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	d := &demonstration{stack: s, env: env, prefix: "demo-" + time.Now().UTC().Format("0102-150405")}
	if err := d.play(playCtx, st); err != nil {
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		return fmt.Errorf("the demonstration went wrong: %w\n%s", err, s.logTails())
	}
	s.say("\nAll sagas ended as they should.")
	return nil
}

type demonstration struct {
	*stack
	env    map[string]string
	prefix string // of order ids, so that each demonstration has its own
}

func (d *demonstration) play(ctx context.Context, st state) error {
	if err := d.fillShelves(ctx); err != nil {
		return err
	}
	scenes := []func(context.Context) error{d.confirmed, d.declined, d.outOfStock, d.lostAnswer, d.choreographed}
	if st.Engine == onDapr {
		scenes = append(scenes, func(ctx context.Context) error { return d.killed(ctx, st) })
	}
	for _, scene := range scenes {
		if err := scene(ctx); err != nil {
			return err
		}
	}
	d.say("\n== The books\n\nEvery checkout is held against what warehouse and payment recorded.")
	if err := d.command(ctx, 0, "audit"); err != nil {
		return err
	}
	if st.Engine == "" { // In a test.
		return nil
	}
	return d.trip(ctx, st)
}

func (d *demonstration) confirmed(ctx context.Context) error {
	d.say("\n== A customer buys two chairs and a lamp, and the card works\n")
	order := d.prefix + "-confirmed"
	if err := d.start(ctx, exitConfirmed, order, "tok_visa", "--item", "CHAIR-OAK=2", "--item", "LAMP-BRASS=1"); err != nil {
		return err
	}
	return d.expect(ctx, order, "CONFIRMED", map[string]string{
		"reserve-stock": "done", "authorize-payment": "done", "capture-payment": "done", "commit-stock": "done"})
}

func (d *demonstration) declined(ctx context.Context) error {
	d.say("\n== The card is declined: the stock that was reserved is released again\n")
	order := d.prefix + "-declined"
	if err := d.start(ctx, exitRejected, order, "tok_declined", "--item", "CHAIR-OAK=1"); err != nil {
		return err
	}
	return d.expect(ctx, order, "REJECTED", map[string]string{
		"reserve-stock": "done, undone", "authorize-payment": "rejected"})
}

func (d *demonstration) outOfStock(ctx context.Context) error {
	d.say("\n== More tables than there are: refused at once, and there is nothing to undo\n")
	order := d.prefix + "-out-of-stock"
	if err := d.start(ctx, exitRejected, order, "tok_visa", "--item", "TABLE-OAK=9999"); err != nil {
		return err
	}
	return d.expect(ctx, order, "REJECTED", map[string]string{"reserve-stock": "rejected"})
}

func (d *demonstration) lostAnswer(ctx context.Context) error {
	d.say("\n== The card network charges and its answer is lost: asked again with the same key, it charges once\n")
	order := d.prefix + "-lost-answer"
	if err := d.start(ctx, exitConfirmed, order, "tok_timeout", "--item", "LAMP-BRASS=1"); err != nil {
		return err
	}
	if err := d.expect(ctx, order, "CONFIRMED", map[string]string{"authorize-payment": "done", "capture-payment": "done"}); err != nil {
		return err
	}
	var network struct{ Charges []struct{ Kind string } }
	if err := call(ctx, d.env["PAYMENT_URL"]+"/payment.v1.SandboxService/ListCharges", map[string]string{"order_id": order}, &network); err != nil {
		return err
	}
	captures := 0
	for _, charge := range network.Charges {
		if charge.Kind == "capture" {
			captures++
		}
	}
	if captures != 1 {
		return fmt.Errorf("the card network captured %s %d times, not once", order, captures)
	}
	d.say("\nThe card network's own book shows one capture for it.")
	return nil
}

func (d *demonstration) choreographed(ctx context.Context) error {
	d.say("\n== The same without anybody calling the participants: they react to each other's events\n")
	order := d.prefix + "-choreographed"
	if err := d.start(ctx, exitConfirmed, order, "tok_visa", "--item", "CHAIR-OAK=1", "--coordination", "choreographed"); err != nil {
		return err
	}
	if err := d.expect(ctx, order, "CONFIRMED", map[string]string{
		"reserve-stock": "done", "authorize-payment": "done", "capture-payment": "done", "commit-stock": "done"}); err != nil {
		return err
	}
	d.say("")
	return d.command(ctx, 0, "event", "list", "--order-id", order)
}

// killed kills the orchestrator while a checkout is between two steps, and expects the checkout to go on.
func (d *demonstration) killed(ctx context.Context, st state) (err error) {
	d.say("\n== The orchestrator is killed between two steps\n\nThe card network is made to fail for a while, so that the checkout stays between its first step and its second.\n")
	order := d.prefix + "-killed"
	if err := d.authorizations(ctx, "fails"); err != nil {
		return err
	}
	defer func() {
		// The sandbox remembers: a demonstration that fails must not leave the card failing.
		restore, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		err = errors.Join(err, d.authorizations(restore, "works"))
	}()
	if err := d.command(ctx, 0, "checkout", "start", "--order-id", order, "--customer", "demo", "--payment-method", "tok_visa", "--item", "CHAIR-OAK=1"); err != nil {
		return err
	}
	betweenSteps, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := localstack.WaitFor(betweenSteps, order+" to stand between two steps", func(ctx context.Context) error {
		c, err := d.status(ctx, order)
		if err != nil {
			return err
		}
		if got := c.step("reserve-stock"); got != "done" {
			return fmt.Errorf("reserve-stock is %s", got)
		}
		if !slices.ContainsFunc(c.Steps, func(x step) bool { return x.Name == "authorize-payment" && x.Attempts > 0 }) {
			return errors.New("authorize-payment was not tried yet")
		}
		return nil
	}); err != nil {
		return err
	}
	if err := d.command(ctx, 0, "checkout", "status", order); err != nil {
		return err
	}

	pid, err := d.orchestratorProcess(st)
	if err != nil {
		return err
	}
	d.say("\n$ kill -KILL %d   # the orchestrator", pid)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill orchestrator: %w", err)
	}
	if err := d.authorizations(ctx, "works"); err != nil {
		return err
	}
	d.say("\nThe card works again, and a supervisor starts the orchestrator again. Nobody touches the checkout.")
	backUp, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := localstack.WaitFor(backUp, "the orchestrator to be back", func(ctx context.Context) error {
		now, err := d.orchestratorProcess(st)
		if err != nil {
			return err
		}
		if now == pid {
			return errors.New("the killed process is still there")
		}
		return ready(ctx, d.env["ORCHESTRATOR_SERVER"])
	}); err != nil {
		return err
	}
	d.say("")
	if err := d.command(ctx, exitConfirmed, "checkout", "wait", order, "--timeout", "120s"); err != nil {
		return err
	}
	return d.expect(ctx, order, "CONFIRMED", map[string]string{"capture-payment": "done", "commit-stock": "done"})
}

// orchestratorProcess is the id of the process that serves, among all that `dapr run` started.
func (d *demonstration) orchestratorProcess(st state) (int, error) {
	program := filepath.Join("bin", "orchestrator")
	for _, started := range st.Sessions {
		for _, pid := range started.members(d.root) {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			if err == nil && strings.HasSuffix(strings.Split(string(text), "\x00")[0], program) {
				return pid, nil
			}
		}
	}
	return 0, errors.New("no orchestrator process runs")
}

func (d *demonstration) authorizations(ctx context.Context, behaviour string) error {
	return call(ctx, d.env["PAYMENT_URL"]+"/payment.v1.SandboxService/SetBehaviour",
		map[string]string{"payment_method": "tok_visa", "authorize": behaviour}, &struct{}{})
}

// fillShelves puts the demonstration's articles in stock: earlier ones took theirs.
func (d *demonstration) fillShelves(ctx context.Context) error {
	for _, sku := range []string{"CHAIR-OAK", "LAMP-BRASS"} {
		var stock struct {
			OnHand   int `json:"on_hand"`
			Reserved int `json:"reserved"`
		}
		service := d.env["WAREHOUSE_URL"] + "/warehouse.v1.WarehouseService/"
		if err := call(ctx, service+"GetStock", map[string]any{"sku": sku}, &stock); err != nil {
			return err
		}
		if stock.OnHand-stock.Reserved >= 10 {
			continue
		}
		if err := call(ctx, service+"SetStock", map[string]any{"sku": sku, "on_hand": stock.Reserved + 1000}, &stock); err != nil {
			return err
		}
	}
	return nil
}

// start places an order and waits for its end; the command line then shows its steps.
func (d *demonstration) start(ctx context.Context, exit int, order, paymentMethod string, items ...string) error {
	args := append([]string{"checkout", "start", "--order-id", order, "--customer", "demo", "--payment-method", paymentMethod}, items...)
	return d.command(ctx, exit, append(args, "--wait", "--timeout", "120s")...)
}

// command runs the orchestrator's command line.
func (d *demonstration) command(ctx context.Context, exit int, args ...string) error {
	return d.types(exit, "orchestrator "+strings.Join(args, " "), d.orchestrator(ctx, args...))
}

// types shows a typed line and its output, and demands its exit status.
func (d *demonstration) types(exit int, typed string, cmd *exec.Cmd) error {
	d.say("$ %s", typed)
	cmd.Stdout, cmd.Stderr = d.out, d.out
	err := cmd.Run()
	if got := cmd.ProcessState.ExitCode(); got != exit {
		return fmt.Errorf("%s: exit status %d, want %d (%v)", typed, got, exit, err)
	}
	if exit != 0 {
		d.say("(exit status %d)", exit)
	}
	return nil
}

func (d *demonstration) orchestrator(ctx context.Context, args ...string) *exec.Cmd {
	return d.program(ctx, "orchestrator", d.env["ORCHESTRATOR_SERVER"], args...)
}

// program is the command line of a program in bin/ that calls the server.
func (d *demonstration) program(ctx context.Context, name, server string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(d.root, "bin", name), args...)
	cmd.Dir = d.root
	cmd.Env = environment(os.Environ(), map[string]string{"ORCHESTRATOR_SERVER": server})
	return cmd
}

// shown is what the demonstration reads of `checkout status -o json`.
type shown struct {
	Status string
	Steps  []step
}

type step struct {
	Name, State, Compensation string
	Attempts                  int
}

// step is the state of one step, and whether it was undone.
func (c shown) step(name string) string {
	for _, x := range c.Steps {
		if x.Name != name {
			continue
		}
		if x.Compensation == "done" {
			return x.State + ", undone"
		}
		return x.State
	}
	return "absent"
}

func (d *demonstration) status(ctx context.Context, order string) (shown, error) {
	var c shown
	out, err := d.orchestrator(ctx, "checkout", "status", order, "-o", "json").Output()
	if err != nil {
		return c, fmt.Errorf("ask for %s: %w", order, err)
	}
	if err := json.Unmarshal(out, &c); err != nil {
		return c, fmt.Errorf("read status of %s: %w", order, err)
	}
	return c, nil
}

// expect checks how a checkout ended, step by step.
func (d *demonstration) expect(ctx context.Context, order, status string, steps map[string]string) error {
	c, err := d.status(ctx, order)
	if err != nil {
		return err
	}
	if c.Status != status {
		return fmt.Errorf("%s is %s, want %s", order, c.Status, status)
	}
	for _, name := range sortedKeys(steps) {
		if got := c.step(name); got != steps[name] {
			return fmt.Errorf("%s: step %s is %q, want %q", order, name, got, steps[name])
		}
	}
	return nil
}

// call is one Connect request, as curl would make it.
func call(ctx context.Context, url string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("call %s: %w", url, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("call %s: %w", url, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("call %s: %s: %s", url, resp.Status, text)
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("call %s: read answer: %w", url, err)
	}
	return nil
}
