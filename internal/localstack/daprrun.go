package localstack

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// WriteRuntime makes dir what `dapr run -f` takes as runtimePath: a folder with .dapr/bin/daprd in it. That daprd is a script that
// adds what the command line has no flag for, so that the whole sidecar is on loopback. The script replaces itself with the
// real program, which must be called daprd too, or `dapr list` and `dapr stop` do not see it.
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
exec ` + daprd + ` "$@" --dapr-internal-grpc-listen-address 127.0.0.1 --metrics-listen-address 127.0.0.1
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
