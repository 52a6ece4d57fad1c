package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/localenv"
)

func TestTheServerIsFoundByFlagThenEnvironmentThenLocalEnv(t *testing.T) {
	root := t.TempDir()
	below := filepath.Join(root, "a", "b")
	require.NoError(t, os.Mkdir(filepath.Join(root, ".local"), 0o700))
	require.NoError(t, os.MkdirAll(below, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, ".local", "env"), []byte("WAREHOUSE_URL=http://w\nORCHESTRATOR_SERVER=http://127.0.0.1:4711\n"), 0o600))
	env := map[string]string{ServerVariable: "127.0.0.1:99/"}
	c := &Client{Surroundings: Surroundings{WorkDir: below, Getenv: func(name string) string { return env[name] }}, flag: "https://flag"}
	for _, want := range []string{"https://flag", "http://127.0.0.1:99", "http://127.0.0.1:4711", defaultServer} {
		address, _, err := c.Server()
		require.NoError(t, err)
		require.Equal(t, want, address)
		switch {
		case c.flag != "":
			c.flag = ""
		case env[ServerVariable] != "":
			delete(env, ServerVariable)
		default:
			c.WorkDir = t.TempDir()
		}
	}
}

func TestALocalEnvThatOthersMayWriteIsToldOfAndPassedOver(t *testing.T) {
	above := t.TempDir()
	below := filepath.Join(above, "a")
	for folder, server := range map[string]string{above: "http://127.0.0.1:1", below: "http://127.0.0.1:2"} {
		require.NoError(t, os.MkdirAll(filepath.Join(folder, ".local"), 0o700))
		require.NoError(t, os.WriteFile(localenv.Path(folder), []byte("ORCHESTRATOR_SERVER="+server+"\n"), 0o600))
	}
	require.NoError(t, os.Chmod(localenv.Path(below), 0o666))
	var told bytes.Buffer
	c := &Client{Program: "travel", Surroundings: Surroundings{WorkDir: below, Err: Printer{&told}, Getenv: func(string) string { return "" }}}
	address, source, err := c.Server()
	require.NoError(t, err)
	require.Equal(t, "http://127.0.0.1:1", address)
	require.Equal(t, "from "+localenv.Path(above), source)
	require.Equal(t, "travel: "+localenv.Path(below)+" is not believed: it may be written by other users (mode 0666)\n", told.String())

	require.NoError(t, os.Chmod(localenv.Path(above), 0o602))
	address, _, err = c.Server()
	require.NoError(t, err)
	require.Equal(t, defaultServer, address, "none is believed")
}
