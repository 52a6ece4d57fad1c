package localenv_test

import (
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/localenv"
)

var settings = map[string]string{"ORCHESTRATOR_SERVER": "http://127.0.0.1:1", "PAYMENT_DATABASE_URL": "postgres://x:y@h/y?sslmode=disable"}

// written is a folder with settings, as `make up` leaves it.
func written(t *testing.T) (folder string) {
	t.Helper()
	folder = t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(folder, ".local"), 0o700))
	require.NoError(t, localenv.Write(folder, settings))
	return folder
}

func TestSettingsAreReadAsTheyWereWrittenAndAreForTheirOwnerAlone(t *testing.T) {
	folder := written(t)
	require.NoError(t, localenv.Write(folder, settings), "a second time")
	got, err := localenv.Read(folder)
	require.NoError(t, err)
	require.Equal(t, settings, got)
	info, err := os.Stat(localenv.Path(folder))
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), info.Mode())
	entries, err := os.ReadDir(filepath.Join(folder, ".local"))
	require.NoError(t, err)
	require.Len(t, entries, 1, "nothing is left behind")
}

func TestWhereThereAreNoSettingsThatIsTold(t *testing.T) {
	_, err := localenv.Read(t.TempDir())
	require.ErrorIs(t, err, fs.ErrNotExist)
	folder := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(folder, ".local"), nil, 0o600))
	_, err = localenv.Read(folder)
	require.ErrorIs(t, err, fs.ErrNotExist, ".local is a file")
}

func TestSettingsThatSomebodyElseMayHaveWrittenAreNotBelieved(t *testing.T) {
	const nobody = 65534
	for name, c := range map[string]struct {
		change func(t *testing.T, folder string) error
		why    string
		asRoot bool
	}{
		"all may write it":    {func(_ *testing.T, f string) error { return os.Chmod(localenv.Path(f), 0o602) }, "written by other users (mode 0602)", false},
		"its group may":       {func(_ *testing.T, f string) error { return os.Chmod(localenv.Path(f), 0o660) }, "written by other users (mode 0660)", false},
		"all may replace it":  {func(_ *testing.T, f string) error { return os.Chmod(filepath.Join(f, ".local"), 0o777) }, "its folder may be written", false},
		"another's":           {func(_ *testing.T, f string) error { return os.Chown(localenv.Path(f), nobody, 0) }, "it belongs to another user (uid 65534)", true},
		"in another's folder": {func(_ *testing.T, f string) error { return os.Chown(filepath.Join(f, ".local"), nobody, 0) }, "its folder belongs", true},
		"a link": {func(t *testing.T, f string) error {
			return replace(f, func(p string) error { return os.Symlink(localenv.Path(written(t)), p) })
		}, "it is a link", false},
		"below a link": {func(t *testing.T, f string) error { return linkFolder(f, filepath.Join(written(t), ".local")) }, "its folder is a link", false},
		"a named pipe": {func(_ *testing.T, f string) error {
			return replace(f, func(p string) error { return syscall.Mkfifo(p, 0o600) })
		}, "no regular file", false},
		"a folder": {func(_ *testing.T, f string) error {
			return replace(f, func(p string) error { return os.Mkdir(p, 0o700) })
		}, "no regular file", false},
		"a socket": {func(t *testing.T, f string) error {
			return replace(f, func(p string) error {
				l, err := net.Listen("unix", p)
				if err == nil {
					t.Cleanup(func() { l.Close() })
				}
				return err
			})
		}, "no regular file", false},
	} {
		t.Run(name, func(t *testing.T) {
			if c.asRoot && os.Geteuid() != 0 {
				t.Skip("only root can give a file to another user")
			}
			folder := written(t)
			require.NoError(t, c.change(t, folder))
			_, err := localenv.Read(folder)
			var distrusted *localenv.DistrustedError
			require.ErrorAs(t, err, &distrusted)
			require.Equal(t, localenv.Path(folder), distrusted.Path)
			require.Contains(t, distrusted.Why, c.why)
		})
	}
}

func replace(folder string, by func(path string) error) error {
	if err := os.Remove(localenv.Path(folder)); err != nil {
		return err
	}
	return by(localenv.Path(folder))
}

func linkFolder(folder, to string) error {
	local := filepath.Join(folder, ".local")
	if err := os.RemoveAll(local); err != nil {
		return err
	}
	return os.Symlink(to, local)
}
