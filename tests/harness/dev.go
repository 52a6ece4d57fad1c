package harness

import (
	"fmt"
	"strings"
	"testing"

	"github.com/checkoutsaga/orchestrator/internal/localstack"
	"github.com/checkoutsaga/orchestrator/internal/node"
	"github.com/checkoutsaga/orchestrator/tests/judge"
)

// Dev is the whole system in one process, as `make up` runs it: the real program, on databases of the test's own.
type Dev struct {
	System
	Process *Process
}

// StartDev builds and starts the program on existing databases, with further environment variables (NAME=value).
func StartDev(t testing.TB, databases judge.Databases, env ...string) *Dev {
	t.Helper()
	names := append([]string{"orchestrator"}, node.Participants()...)
	ports, err := localstack.FreePorts(len(names))
	if err != nil {
		t.Fatal(err)
	}
	urls := make(map[string]string)
	for i, name := range names {
		address := fmt.Sprintf("127.0.0.1:%d", ports[i])
		urls[name] = "http://" + address
		upper := strings.ToUpper(name)
		env = append(env, upper+"_LISTEN="+address, upper+"_DATABASE_URL="+databases[name])
	}
	d := &Dev{System: System{Databases: databases}, Process: NewProcess(t, "orchestrator", urls["orchestrator"], env, "dev")}
	d.Process.Start(t)
	d.connect(t, urls)
	return d
}
