package localstack

import (
	"errors"
	"fmt"
	"os/exec"
)

// redis is a Redis server. It is on loopback only and has no password.
var redis = brokerKind{
	name:      Redis,
	portCount: 1,
	describe: func(dir string, ports []int) ([]brokerProcess, error) {
		program, err := exec.LookPath("redis-server")
		if err != nil {
			return nil, errors.New("Redis is not installed; `make install` installs it")
		}
		// Synced before each answer. With a sync each second, a write that has to wait for one is answered before it has
		// left the process, so a kill could take back what was confirmed; a broker in earnest has a replica for that.
		server := &process{name: Redis, program: program, dir: dir, args: []string{
			"--port", fmt.Sprint(ports[0]), "--bind", "127.0.0.1", "--dir", dir,
			"--save", "", "--appendonly", "yes", "--appendfsync", "always"}}
		// While it reads its data from disk it answers with an error.
		return []brokerProcess{{server, greets(ports[0], "PING\r\n", "+PONG")}}, nil
	},
	env: func(address string) string { return "REDIS_HOST=" + address },
}
