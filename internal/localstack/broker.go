package localstack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Kinds of brokers, which are also the names of their folders in components/brokers.
const (
	Redis    = "redis"
	RabbitMQ = "rabbitmq"
	Kafka    = "kafka"
)

// Brokers are all kinds.
var Brokers = []string{Redis, RabbitMQ, Kafka}

// Broker is a private message broker on a loopback port. After a kill and a new start it is on the same port and has what it had
// confirmed.
type Broker struct {
	brokerKind
	ports     []int // the first is the one for clients
	password  string
	processes []brokerProcess
}

// brokerProcess is one of a broker's processes, with the check that the next may be started. The last one is the broker itself.
type brokerProcess struct {
	*process
	check func(context.Context) error
}

// brokerKind is what differs between brokers.
type brokerKind struct {
	name string
	// portCount is how many ports it needs.
	portCount int
	// describe names the processes of a broker in dir, in the order of their start. Only the password lets anybody in. No command
	// line carries it, because every user of the machine can read those.
	describe func(dir string, ports []int, password string) ([]brokerProcess, error)
	// env are the variables that a sidecar needs, as the broker's component files say.
	env func(address, password string) []string
}

func kindOf(name string) (brokerKind, error) {
	for _, kind := range []brokerKind{redis, rabbitMQ, kafka} {
		if kind.name == name {
			return kind, nil
		}
	}
	return brokerKind{}, fmt.Errorf("no broker is called %q; there are %v", name, Brokers)
}

// StartBroker starts the broker of a kind with its data in dir, or finds it running, and waits until it serves. A tied one dies
// with this process; another goes on until StopBroker. The first call builds Kafka from tools/kafka below moduleRoot.
func StartBroker(ctx context.Context, kind, moduleRoot, dir string, tied bool) (*Broker, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := PrivateDir(dir); err != nil {
		return nil, err
	}
	unlock, err := lockFile(dir + ".lock")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if running, err := findBroker(kind, dir); running != nil || err != nil {
		return running, err
	}
	if kind == Kafka {
		if err := linkKafka(ctx, moduleRoot, dir); err != nil {
			return nil, err
		}
	}
	k, err := kindOf(kind)
	if err != nil {
		return nil, err
	}
	ports, err := FreePorts(k.portCount)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(ports)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "ports.json"), text, 0o644); err != nil {
		return nil, fmt.Errorf("note ports of %s: %w", kind, err)
	}
	b, err := openBroker(k, dir, ports)
	if err != nil {
		return nil, err
	}
	for _, p := range b.processes {
		p.tied = tied
	}
	if err := b.Start(ctx); err != nil {
		b.Kill()
		return nil, err
	}
	return b, nil
}

// StopBroker stops the broker of a kind with its data in dir. It is no error if none runs.
func StopBroker(kind, dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	b, err := findBroker(kind, dir)
	if b == nil || err != nil {
		return err
	}
	b.Stop()
	return nil
}

// findBroker is the broker that runs in dir, or nil.
func findBroker(kind, dir string) (*Broker, error) {
	k, err := kindOf(kind)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(dir, "ports.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var ports []int
	if err := json.Unmarshal(text, &ports); err != nil || len(ports) != k.portCount {
		return nil, fmt.Errorf("read ports of %s in %s: %q (%w)", kind, dir, text, err)
	}
	b, err := openBroker(k, dir, ports)
	if err != nil {
		return nil, err
	}
	for _, p := range b.processes {
		p.find()
	}
	if !b.broker().alive() {
		b.Kill() // Its remains would be in the way of the next one.
		return nil, nil
	}
	return b, nil
}

func openBroker(kind brokerKind, dir string, ports []int) (*Broker, error) {
	secret, err := password(filepath.Join(dir, "password"))
	if err != nil {
		return nil, err
	}
	processes, err := kind.describe(dir, ports, secret)
	if err != nil {
		return nil, err
	}
	return &Broker{brokerKind: kind, ports: ports, password: secret, processes: processes}, nil
}

// Start starts it again after Stop or Kill, on the same port and with its data, and waits until it serves.
func (b *Broker) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, p := range b.processes {
		if err := p.start(); err != nil {
			return err
		}
		if err := p.ready(ctx, p.check); err != nil {
			return err
		}
	}
	return nil
}

// Stop asks it to end and waits for that; after 20 s it is killed.
func (b *Broker) Stop() {
	for _, p := range slices.Backward(b.processes) {
		p.stop(20 * time.Second)
	}
}

// Kill ends it without warning.
func (b *Broker) Kill() {
	for _, p := range slices.Backward(b.processes) {
		p.kill()
	}
}

// Kind is its folder in components/brokers.
func (b *Broker) Kind() string { return b.name }

// Address is host:port for clients.
func (b *Broker) Address() string { return address(b.ports[0]) }

// Env are the variables by which a sidecar's component files find the broker and are let in.
func (b *Broker) Env() []string { return b.env(b.Address(), b.password) }

// LogFile is where it logs to.
func (b *Broker) LogFile() string { return b.broker().logFile() }

func (b *Broker) broker() *process { return b.processes[len(b.processes)-1].process }

func address(port int) string { return net.JoinHostPort("127.0.0.1", fmt.Sprint(port)) }

// greets checks that the server on port answers request with answer. Both may be empty.
func greets(port int, request, answer string) func(context.Context) error {
	return func(ctx context.Context) error {
		got, err := exchange(ctx, address(port), request, len(answer))
		if err == nil && got != answer {
			err = fmt.Errorf("it answers %q, not %q", got, answer)
		}
		return err
	}
}

// exchange sends request to address and reads the first n bytes of the answer.
func exchange(ctx context.Context, address, request string, n int) (string, error) {
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, request); err != nil {
		return "", err
	}
	answer := make([]byte, n)
	_, err = io.ReadFull(conn, answer)
	return string(answer), err
}
