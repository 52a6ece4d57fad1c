package localstack

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strings"
)

// postgresPlace says where a server keeps its files.
type postgresPlace struct {
	// dir belongs to this user and has the superuser's password.
	dir string
	// home is private to owner, whom the server runs as, and has its data and its log. It is dir, unless owner is another user.
	// Then it is below dir or, if owner cannot reach that (as below a checkout's .local), in rootsPlace.
	home  string
	owner *user.User
}

// rootsPlace is where root keeps the folders of servers, which run as another user. Unlike in /var/tmp, only root can make anything
// there, so what is found there is ours.
const rootsPlace = "/var/lib/checkoutsaga"

// placeOf says where the server of dir keeps its files. It makes nothing.
func placeOf(dir string) (postgresPlace, error) {
	owner, err := postgresOwner()
	if err != nil {
		return postgresPlace{}, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return postgresPlace{}, err
	}
	place := postgresPlace{dir: dir, home: dir, owner: owner}
	switch {
	case uidOf(owner) == os.Geteuid():
	case canEnter(owner, filepath.Dir(dir)):
		place.home = filepath.Join(dir, "server")
	default:
		sum := sha256.Sum256([]byte(dir))
		place.home = filepath.Join(rootsPlace, fmt.Sprintf("%s-%x", filepath.Base(dir), sum[:6]))
	}
	return place, nil
}

func (p postgresPlace) data() string         { return filepath.Join(p.home, "data") }
func (p postgresPlace) logFile() string      { return filepath.Join(p.home, "postgres.log") }
func (p postgresPlace) passwordFile() string { return filepath.Join(p.dir, "superuser.password") }

// makePlace makes the folders, so that nobody else can have made them.
func (p postgresPlace) makePlace() error {
	if p.home == p.dir {
		return PrivateDir(p.dir)
	}
	// The folder above home lets the server's user pass; only this user writes in it.
	above := filepath.Dir(p.home)
	if above != p.dir {
		if err := PrivateDir(p.dir); err != nil {
			return err
		}
	}
	if err := ownDir(above, 0o711); err != nil {
		return err
	}
	if err := os.Mkdir(p.home, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	home, err := openDir(p.home, uidOf(p.owner), 0)
	if err != nil {
		return err
	}
	defer home.Close()
	return errors.Join(home.Chown(uidOf(p.owner), gidOf(p.owner)), home.Chmod(0o700))
}

// olderHomes are the folders with data without a password. Either they are of the form that let everybody in as the superuser (for
// root in dir itself, if the server's user could reach that, or in /var/tmp), or somebody has removed dir.
func (p postgresPlace) olderHomes() (homes []string) {
	candidates := []string{p.home}
	if p.home != p.dir {
		candidates = append(candidates, p.dir, filepath.Join("/var/tmp", "checkoutsaga"+strings.ReplaceAll(p.dir, "/", "-")))
	}
	for _, home := range candidates {
		dir, err := openDir(home, uidOf(p.owner))
		if err != nil {
			continue // It does not exist, or is somebody else's.
		}
		dir.Close()
		_, noData := os.Lstat(filepath.Join(home, "data", "PG_VERSION"))
		_, noPassword := os.Lstat(p.passwordFile())
		if noData == nil && noPassword != nil {
			homes = append(homes, home)
		}
	}
	return homes
}
