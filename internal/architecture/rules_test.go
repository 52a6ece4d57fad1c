// Package architecture holds who may import whom, and the test that keeps it so. Each rule carries its reason, which is
// what somebody reads when the test fails. It is imported by nobody.
package architecture

import (
	"fmt"
	"slices"
	"strings"
)

const module = "github.com/checkoutsaga/orchestrator/"

// rule limits what the packages of a folder import. Paths are relative to the module and stand for the package and all
// below it; one that ends in "$" stands for that package alone.
type rule struct {
	packages []string
	except   []string // below packages, yet not meant
	mayOnly  []string // of ours; nil: anything that is not in never
	never    []string // of ours by path, of others by import path
	yet      []string // of ours below never, and allowed all the same
	because  string
}

// nothing of ours.
var nothing = []string{}

var rules = []rule{
	{
		packages: []string{"internal/checkout$"}, mayOnly: []string{"saga$"},
		never:   []string{"github.com", "go.uber.org", "google.golang.org", "connectrpc.com", "gopkg.in", "database/sql", "net"},
		because: "it is the leaf that everybody shares: the checkout's names and its order, beside the words of every saga",
	},
	{
		packages: []string{"gen"}, mayOnly: []string{"gen"},
		because: "generated contracts know contracts only",
	},
	{
		packages: []string{"saga"}, except: []string{"saga/journal", "saga/sagatest", "saga/participant"}, mayOnly: nothing,
		because: "it is public and reusable: a saga author's package must bring no word of checkout along",
	},
	{
		packages: []string{"saga/journal"}, mayOnly: []string{"saga$"},
		never:   []string{"github.com", "database/sql", "net", "os", "log", "log/slog", "math/rand", "crypto/rand", "context"},
		because: "the rules of a row are pure: they decide by the row and its plan, whoever stores it, and can be tried in memory",
	},
	{
		packages: []string{"saga/sagatest"}, mayOnly: []string{"saga"},
		because: "it tests other people's sagas and must be as free of checkout as the package it tests",
	},
	{
		packages: []string{"saga/participant"}, never: []string{"internal/checkout", "participants", "workflows", "activities", "cmd"},
		because: "it is public, for participants of any saga: it knows no trade, and nobody who calls",
	},
	{
		packages: []string{"saga/participant$"}, mayOnly: []string{"gen/saga/participant"}, never: []string{"github.com", "database/sql"},
		because: "it is the contract as a Go seam and on the wire: it serves and calls by the contract alone, and keeps nothing",
	},
	{
		packages: []string{"saga/participant/ledger"}, mayOnly: []string{"saga/participant$", "saga/participant/ledger", "gen/operation", "internal/commit", "internal/contract", "internal/pg"},
		never:   []string{"database/sql", "net", "net/http", "github.com/dapr"},
		because: "the ledger works in its caller's transaction, by pgx alone: it speaks of operations, and calls nobody",
	},
	{
		packages: []string{"saga/participant/participanttest"}, mayOnly: []string{"gen/operation", "saga/participant$"},
		never:   []string{"database/sql", "github.com/jackc/pgx", "github.com/dapr"},
		because: "the kit proves participants in any language, with any database: it knows one by its adapter and the contract of operations",
	},
	{
		packages: []string{"workflows"}, mayOnly: []string{"saga$", "internal/checkout$", "activities"},
		never:   []string{"database/sql", "github.com/jackc/pgx", "net", "net/http", "log", "log/slog", "os", "math/rand", "crypto/rand", "github.com/google/uuid", "connectrpc.com"},
		because: "workflow code is replayed: it may not reach the outside, the clock or chance, and meets participants by name only",
	},
	{
		packages: []string{"activities"}, mayOnly: []string{"internal/checkout$"},
		never:   []string{"database/sql", "github.com/jackc/pgx", "net", "net/http", "connectrpc.com"},
		because: "the checkout's requests are made from the order, and kept with the saga: an order in, an input out, and nobody is called",
	},
	{
		packages: []string{"internal/sagas"},
		never: []string{"internal/checkout", "participants", "workflows", "activities", "cmd",
			"gen/checkout", "gen/orders", "gen/payment", "gen/pricing", "gen/warehouse"},
		because: "it serves any saga: what a definition has beside its list is its guest's, and comes in by the hooks",
	},
	{
		packages: []string{"internal/sagas/doctor", "internal/sagas/history", "internal/sagas/operator"},
		never:    []string{"gen", "internal/sagas/api", "internal/sagas/host", "internal/engine/dapr", "internal/engine/embedded", "internal/events", "connectrpc.com"},
		because:  "what is told of sagas is an ordinary Go API: the wire is the API's, the engine and the participants are seams, and a guest adds its own",
	},
	{
		packages: []string{"internal/checkout/api", "internal/checkout/orders"}, never: []string{"workflows", "activities", "participants", "cmd"},
		because: "what a checkout has beside its saga decides by the row and the plan in it; who declares the plan, and who the participants are, is wired in node",
	},
	{
		packages: []string{"participants"}, never: []string{"saga", "workflows", "activities", "cmd", "internal/checkout", "internal/sagas", "internal/engine", "internal/invoke"},
		yet:     []string{"saga/participant"},
		because: "a participant knows its contract, not who calls it: it must work for any saga",
	},
	{
		packages: []string{"internal/engine"}, mayOnly: []string{"internal/engine", "internal/commit", "internal/pause", "internal/pg", "internal/sidecar"},
		because: "the engine seam runs any workflow and knows no checkout",
	},
	{
		packages: []string{"internal/commit"}, mayOnly: []string{"internal/pg"},
		because: "it lets changes share a transaction and knows none of their tables",
	},
	{
		packages: []string{"internal/events", "internal/invoke", "internal/pg", "internal/telemetry", "internal/rpcserver", "internal/localstack", "internal/process", "internal/sidecar", "internal/breaker", "internal/pause", "internal/money", "internal/redact", "internal/localenv", "internal/contract"},
		never:    []string{"internal/checkout", "internal/sagas", "participants", "saga", "workflows", "activities", "cmd"},
		because:  "plumbing is used by all and knows none of them",
	},
	{
		packages: []string{"internal/cli"}, except: []string{"internal/cli/participantverbs"},
		mayOnly: []string{"internal/cli", "gen/saga/v1", "internal/localenv", "internal/money", "internal/process", "internal/redact", "internal/telemetry", "saga$", "saga/replay"},
		because: "the command line is that of anybody's sagas: it knows the contract of sagas and no trade, and serves nothing itself; of saga it has what its own build replays histories by",
	},
	{
		packages: []string{"internal/cli/participantverbs"}, mayOnly: []string{"internal/cli$", "saga/participant"},
		because: "it proves participants over their contract, and asks no orchestrator",
	},
	{
		packages: []string{"orchestrator"}, mayOnly: []string{"internal/cli", "internal/localenv", "internal/localstack", "internal/process", "internal/sagas/host", "saga$", "saga/participant$"},
		because: "it is public, a whole program for anybody's sagas: it puts the host and the command line together and knows no trade",
	},
	{
		packages: []string{""}, except: []string{"cmd", "orchestrator", "internal/cli"}, never: []string{"internal/cli"},
		because: "it is for programs, ours and the public one: what they are made of must work without a terminal",
	},
	{
		packages: []string{""}, except: []string{"cmd"}, never: []string{"cmd"},
		because: "commands are the top: nothing builds on them",
	},
}

// forTests tells whether a package exists for tests. Production code is everything else that is not a _test.go file.
func forTests(pkg string) bool {
	return within(pkg, []string{"internal/architecture", "internal/testing", "saga/sagatest", "saga/participant/participanttest", "saga/participant/ledger/ledgertest", "internal/sagas/store/storetest", "tests", "bench"})
}

// proves tells whether a program proves participants by the kit: `orchestrator participant check` is for those in other languages, who
// have no Go test to call it from.
func proves(by, path string) bool {
	return by == "internal/cli/participantverbs" && path == "saga/participant/participanttest"
}

// imported is one import of one file: by which package, and what.
type imported struct {
	file   string // relative to the module
	by     string // package, relative to the module
	path   string // import path
	inTest bool   // the file is a _test.go file
}

// violations are sentences, one for each import that breaks a rule. Test files may import what they test with.
func violations(imports []imported) []string {
	var found []string
	say := func(i imported, because string) {
		found = append(found, fmt.Sprintf("%s imports %s: %s", i.file, strings.TrimPrefix(i.path, module), because))
	}
	for _, i := range imports {
		if i.inTest {
			continue
		}
		ours, isOurs := strings.CutPrefix(i.path, module)
		if isOurs && forTests(ours) && !forTests(i.by) && !proves(i.by, ours) {
			say(i, "that package exists for tests; production code must not carry it")
		}
		if isOurs && otherParticipant(i.by, ours) {
			say(i, "participants share nothing but their contracts: each has a database and a life of its own")
		}
		for _, r := range rules {
			if !within(i.by, r.packages) || within(i.by, r.except) {
				continue
			}
			switch {
			case isOurs && r.mayOnly != nil && !within(ours, r.mayOnly) && ours != i.by:
				say(i, r.because)
			case isOurs && within(ours, r.never) && !within(ours, r.yet), !isOurs && within(i.path, r.never):
				say(i, r.because)
			}
		}
	}
	slices.Sort(found)
	return found
}

// otherParticipant tells whether two packages belong to different participants. What they share is public: saga/participant.
func otherParticipant(by, path string) bool {
	if !strings.HasPrefix(by, "participants/") || !strings.HasPrefix(path, "participants/") {
		return false
	}
	return strings.Split(by, "/")[1] != strings.Split(path, "/")[1]
}

func within(path string, folders []string) bool {
	return slices.ContainsFunc(folders, func(folder string) bool {
		exact, only := strings.CutSuffix(folder, "$")
		return path == exact || !only && (folder == "" || strings.HasPrefix(path, folder+"/"))
	})
}
