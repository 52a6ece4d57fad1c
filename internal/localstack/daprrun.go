package localstack

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// WriteRuntime makes dir a runtimePath for `dapr run -f`: a folder with .dapr/bin/daprd in it. That daprd is a script that adds
// what the command line has no flag for, so that the whole sidecar is on loopback. The script replaces itself with the real
// program, which must be called daprd too, or `dapr list` and `dapr stop` do not see it. It leaves a watch behind, because nothing
// else restarts a sidecar that accepts no worker any more (docs/decisions/0006). The watch ends with the sidecar.
func WriteRuntime(dir string, dapr Dapr) error {
	bin := filepath.Join(dir, ".dapr", "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return fmt.Errorf("make folder for daprd: %w", err)
	}
	daprd := shellQuote(dapr.Daprd)
	script := `#!/bin/sh
# Written by internal/localstack; a change here is lost.
[ "$1" = --version ] && exec ` + daprd + ` --version
export DAPR_HOST_IP=127.0.0.1
set -- "$@" --dapr-internal-grpc-listen-address 127.0.0.1 --metrics-listen-address 127.0.0.1
port= next=
for word; do
  [ "$next" ] && port=$word
  case $word in --app-port) next=1;; --app-port=*) port=${word#*=}; next=;; *) next=;; esac
done
[ "$port" ] && (
  daprd=$$ deaf=0
  while sleep 3; kill -0 "$daprd"; do
    case $(curl -s -m 2 "http://127.0.0.1:$port/readyz") in
      *"no workflow worker connected"*) deaf=$((deaf + 1));;
      *) deaf=0;;
    esac
    [ "$deaf" -lt 5 ] && continue
    echo "the sidecar of port $port has accepted no worker for 15 s; it is started again"
    kill -KILL "$daprd"
    ` + daprd + ` "$@" &
    daprd=$! deaf=0
  done
) </dev/null >>"$0.log" 2>&1 &
exec ` + daprd + ` "$@"
`
	// Whole or not at all: another process may be starting it now.
	temp, err := os.CreateTemp(bin, ".daprd-")
	if err != nil {
		return fmt.Errorf("write daprd: %w", err)
	}
	defer os.Remove(temp.Name())
	_, err = temp.WriteString(script)
	if err == nil {
		err = temp.Chmod(0o755)
	}
	if closeErr := temp.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(temp.Name(), filepath.Join(bin, "daprd"))
	}
	if err != nil {
		return fmt.Errorf("write daprd: %w", err)
	}
	return nil
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
