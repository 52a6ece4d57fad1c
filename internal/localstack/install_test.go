package localstack

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestInstallDoesNothingWhenAllIsThere(t *testing.T) {
	calls := fakePath(t, "apt-get", "sudo")
	var out bytes.Buffer
	require.NoError(t, install(t.Context(), &out, []systemPackage{{"redis-server", func() bool { return true }}}, false))
	require.Empty(t, out.String())
	require.Empty(t, calls())
}

func TestInstallAsOrdinaryUserInstallsOnlyWhatIsMissingThroughSudo(t *testing.T) {
	calls := fakePath(t, "apt-get", "sudo")
	looked := 0
	var out bytes.Buffer
	require.NoError(t, install(t.Context(), &out, []systemPackage{
		{"postgresql", func() bool { return true }},
		{"redis-server", func() bool { looked++; return looked > 1 }}, // Missing at first, there afterwards.
	}, false))
	require.Contains(t, out.String(), "Installing redis-server")
	require.Contains(t, calls(), "sudo -n true\n")
	require.Contains(t, calls(), "sudo -n /bin/sh -c")
	require.Contains(t, calls(), "install redis-server\n")
	require.NotContains(t, calls(), "postgresql")
}

func TestASystemNeedsNoMoreThanItRunsOn(t *testing.T) {
	for broker, want := range map[string][]string{
		"": {"postgresql"}, Kafka: {"postgresql"}, Redis: {"postgresql", "redis-server"}, RabbitMQ: {"postgresql", "rabbitmq-server"},
	} {
		var names []string
		for _, p := range neededFor(broker) {
			names = append(names, p.name)
		}
		require.Equal(t, want, names, "on %q", broker)
	}
}

func TestInstallSaysWhatToTypeWhenItMayNot(t *testing.T) {
	missing := []systemPackage{{"redis-server", func() bool { return false }}}
	t.Run("sudo would ask for a password", func(t *testing.T) {
		fakePath(t, "apt-get") // There is no sudo at all, which is told alike.
		err := install(t.Context(), &bytes.Buffer{}, missing, false)
		require.ErrorContains(t, err, "sudo apt-get install --no-install-recommends redis-server")
	})
	t.Run("not Debian", func(t *testing.T) {
		fakePath(t)
		err := install(t.Context(), &bytes.Buffer{}, missing, true)
		require.ErrorContains(t, err, "not a Debian system")
	})
	t.Run("apt-get succeeds and brings nothing", func(t *testing.T) {
		fakePath(t, "apt-get", "sudo")
		err := install(t.Context(), &bytes.Buffer{}, missing, false)
		require.ErrorContains(t, err, "yet not found: redis-server")
	})
}

// fakePath makes PATH a folder with only these programs, which do nothing but note how they were called.
func fakePath(t *testing.T, programs ...string) (calls func() string) {
	t.Helper()
	dir := t.TempDir()
	log := filepath.Join(dir, "calls")
	for _, name := range programs {
		script := "#!/bin/sh\necho " + name + ` "$@" >>` + log + "\n"
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755))
	}
	t.Setenv("PATH", dir)
	return func() string {
		text, _ := os.ReadFile(log) // Absent where nothing was called.
		return string(text)
	}
}
