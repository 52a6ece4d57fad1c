// Command kafka is a broker that speaks Kafka's protocol, for one machine. It is franz-go's kfake, which is not Kafka, but a
// component of Dapr cannot tell. It makes topics when they are first asked for. It keeps all messages in a folder, and goes on from
// there after a kill.
//
// It is a module of its own because nothing else here needs a Kafka client's library.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// partitions of a topic: more than one, so that a wrong key shows as a wrong order in tests too.
const partitions = 4

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "kafka:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("want the loopback port and the data folder, not %q", args)
	}
	port, err := strconv.Atoi(args[0])
	if err != nil {
		return fmt.Errorf("read port: %w", err)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	// Not synced: what a write has given to the system outlives this process, and tests kill processes, not machines.
	cluster, err := kfake.NewCluster(
		kfake.NumBrokers(1), kfake.Ports(port), // On 127.0.0.1, always.
		kfake.DefaultNumPartitions(partitions), kfake.DataDir(args[1]))
	if err != nil {
		return fmt.Errorf("start broker: %w", err)
	}
	makeTopics(cluster)
	fmt.Println("listening on", cluster.ListenAddrs())
	<-stop
	cluster.Close()
	return nil
}

// makeTopics makes each topic that a client asks for. The cluster's own way forgets the topic, with all messages, when the process
// is killed.
func makeTopics(cluster *kfake.Cluster) {
	cluster.ControlKey(int16(kmsg.Metadata), func(request kmsg.Request) (kmsg.Response, error, bool) {
		if asked, ok := request.(*kmsg.MetadataRequest); ok && asked.AllowAutoTopicCreation {
			cluster.SleepControl(func() {
				for _, topic := range asked.Topics {
					if topic.Topic != nil {
						_ = cluster.CreateTopic(*topic.Topic, -1, nil) // It may exist; if it cannot be made, the answer says so.
					}
				}
			})
		}
		return nil, nil, false
	})
}
