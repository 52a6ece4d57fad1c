package architecture

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const root = "../.."

func TestPackagesImportOnlyWhatTheyMay(t *testing.T) {
	var imports []imported
	eachGoFile(t, root, func(path string, file *ast.File, _ *token.FileSet) {
		for _, spec := range file.Imports {
			to, err := strconv.Unquote(spec.Path.Value)
			require.NoError(t, err)
			imports = append(imports, imported{
				file: path, by: packageOf(path), path: to, inTest: strings.HasSuffix(path, "_test.go"),
			})
		}
	})
	require.NotEmpty(t, imports)
	for _, v := range violations(imports) {
		t.Error(v)
	}
}

// The engine knows no trade: what serves every saga must not speak of one. The words are those of the checkout.
func TestWhatServesEverySagaNamesNoTrade(t *testing.T) {
	trade := regexp.MustCompile(`(?i)check-?out|warehouse|payment|\bstock|shipment|\bsku\b|\bpric(e|ing)`)
	for _, folder := range []string{"saga", "orchestrator", "internal/cli", "internal/sagas"} {
		seen := 0
		eachGoFile(t, filepath.Join(root, folder), func(path string, _ *ast.File, _ *token.FileSet) {
			if strings.HasSuffix(path, "_test.go") || within(packageOf(path), []string{"saga/participant"}) || forTests(packageOf(path)) {
				return
			}
			seen++
			text, err := os.ReadFile(filepath.Join(root, path))
			require.NoError(t, err)
			for n, line := range strings.Split(string(text), "\n") {
				if word := trade.FindString(strings.ReplaceAll(line, module, "")); word != "" {
					t.Errorf("%s:%d speaks of %q: %s", path, n+1, word, strings.TrimSpace(line))
				}
			}
		})
		require.Greater(t, seen, 1, folder)
	}
}

func TestWorkflowCodeIsDeterministic(t *testing.T) {
	notReplayed := []string{"saga/participant"} // Participants are called; no workflow runs their code.
	for _, replayed := range []string{"saga", "workflows"} {
		eachGoFile(t, filepath.Join(root, replayed), func(path string, file *ast.File, fset *token.FileSet) {
			if strings.HasSuffix(path, "_test.go") || forTests(packageOf(path)) || within(packageOf(path), notReplayed) {
				return
			}
			for _, v := range nondeterminism(path, file, fset) {
				t.Error(v)
			}
		})
	}
}

func TestEachKindOfForbiddenImportIsSeen(t *testing.T) {
	for name, c := range map[string]struct{ by, path, want string }{
		"the leaf imports one of ours":            {"internal/checkout", module + "gen/payment/v1", "leaf"},
		"the leaf imports a library":              {"internal/checkout", "github.com/google/uuid", "leaf"},
		"the public saga learns of checkouts":     {"saga", module + "internal/checkout", "public and reusable"},
		"a rule reads a database":                 {"saga/journal", "database/sql", "pure"},
		"a rule reads what the store keeps":       {"saga/journal", module + "internal/sagas/store", "pure"},
		"a participant's contract keeps records":  {"saga/participant", "github.com/jackc/pgx/v5", "keeps nothing"},
		"a participant's contract learns a trade": {"saga/participant", module + "gen/payment/v1", "by the contract alone"},
		"the ledger learns of payments":           {"saga/participant/ledger", module + "gen/payment/v1", "speaks of operations"},
		"the ledger calls somebody":               {"saga/participant/ledger", "net/http", "calls nobody"},
		"the ledger knows a participant":          {"saga/participant/ledger", module + "participants/payment", "no trade"},
		"the kit knows how participants record":   {"saga/participant/participanttest", module + "saga/participant/ledger", "its adapter"},
		"the kit knows a database":                {"saga/participant/participanttest", "github.com/jackc/pgx/v5", "any database"},
		"a workflow keeps a ledger":               {"workflows", module + "saga/participant/ledger", "replayed"},
		"a workflow calls a participant":          {"workflows", module + "gen/payment/v1", "replayed"},
		"a workflow reaches the network":          {"workflows", "net/http", "replayed"},
		"a request is made by SQL":                {"activities", "github.com/jackc/pgx/v5", "an order in"},
		"a request knows its participant":         {"activities", module + "participants/warehouse", "an order in"},
		"a request is sent":                       {"activities", "net/http", "nobody is called"},
		"a request knows the checkout workflow":   {"activities", module + "workflows", "an order in"},
		"the store knows workflows":               {"internal/sagas/store", module + "workflows", "any saga"},
		"the store knows checkouts":               {"internal/sagas/store", module + "internal/checkout", "any saga"},
		"a sweeper knows payments":                {"internal/sagas/sweeper", module + "gen/payment/v1", "any saga"},
		"a participant knows the orchestrator":    {"participants/payment", module + "internal/checkout", "any saga"},
		"a participant knows the saga":            {"participants/payment", module + "saga", "any saga"},
		"a participant knows the saga's tools":    {"participants/payment", module + "saga/replay", "any saga"},
		"a participant knows another":             {"participants/payment", module + "participants/warehouse", "share nothing"},
		"the engine knows checkouts":              {"internal/engine/dapr", module + "internal/checkout", "engine seam"},
		"plumbing knows its user":                 {"internal/pg", module + "participants/payment", "plumbing"},
		"production code carries a test package":  {"participants/payment", module + "internal/testing/pgtest", "exists for tests"},
		"the command line knows checkouts":        {"internal/cli/sagaverbs", module + "gen/checkout/v1", "no trade"},
		"the command line knows a server":         {"internal/cli", module + "internal/sagas/store", "serves nothing"},
		"a server speaks to a terminal":           {"internal/sagas/sweeper", module + "internal/cli", "without a terminal"},
		"somebody builds on a command":            {"internal/checkout/api", module + "cmd/orchestrator", "commands are the top"},
	} {
		t.Run(name, func(t *testing.T) {
			i := imported{file: c.by + "/x.go", by: c.by, path: c.path}
			found := violations([]imported{i})
			require.NotEmpty(t, found)
			require.Contains(t, strings.Join(found, "\n"), c.want)
			i.inTest = true
			require.Empty(t, violations([]imported{i}), "a test may")
		})
	}
}

func TestWhatIsMeantToBeImportedIsAllowed(t *testing.T) {
	for by, path := range map[string]string{
		"activities":                    module + "internal/checkout",
		"workflows":                     module + "activities",
		"internal/sagas/sweeper":        module + "internal/sagas/store",
		"participants/payment":          module + "saga/participant/ledger",
		"saga/participant/ledger":       module + "internal/pg",
		"internal/engine/embedded":      module + "internal/engine",
		"cmd/notification":              module + "internal/cli",
		"internal/cli/participantverbs": module + "saga/participant/participanttest",
		"orchestrator":                  module + "internal/cli/sagaverbs",
		"internal/cli/sagaverbs":        module + "gen/saga/v1/sagav1connect",
		"bench":                         module + "internal/testing/pgtest",
	} {
		require.Empty(t, violations([]imported{{file: by + "/x.go", by: by, path: path}}), "%s imports %s", by, path)
	}
}

func TestEachKindOfNondeterminismIsSeen(t *testing.T) {
	for source, want := range map[string]string{
		`import "time"; func f() { _ = time.Now() }`:                   "time.Now",
		`import clock "time"; func f() { clock.Sleep(1) }`:             "time.Sleep",
		`import "math/rand/v2"; func f() { _ = rand.Int() }`:           "math/rand/v2",
		`import "crypto/rand"; func f() { _ = rand.Text() }`:           "crypto/rand",
		`import "github.com/google/uuid"; func f() { _ = uuid.New() }`: "uuid",
		`func f() { go f() }`:                                          "go statement",
		`func f(c chan int) { select { case <-c: } }`:                  "select statement",
	} {
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, "x.go", "package p; "+source, 0)
		require.NoError(t, err)
		require.Contains(t, strings.Join(nondeterminism("x.go", file, fset), "\n"), want, source)
	}
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "x.go", `package p; import "time"; const d = 5 * time.Second`, 0)
	require.NoError(t, err)
	require.Empty(t, nondeterminism("x.go", file, fset), "durations are fine")
}

// nondeterminism tells what in a workflow's source would differ between a run and its replay.
func nondeterminism(path string, file *ast.File, fset *token.FileSet) []string {
	var found []string
	say := func(pos token.Pos, what, instead string) {
		found = append(found, fmt.Sprintf("%s:%d: %s in workflow code, which is replayed: %s", path, fset.Position(pos).Line, what, instead))
	}
	timeName := ""
	for _, spec := range file.Imports {
		switch imported, _ := strconv.Unquote(spec.Path.Value); {
		case imported == "time":
			if timeName = "time"; spec.Name != nil {
				timeName = spec.Name.Name
			}
		case slices.Contains([]string{"math/rand", "math/rand/v2", "crypto/rand", "github.com/google/uuid"}, imported):
			say(spec.Pos(), imported, "make the value in an activity or in the request")
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && timeName != "" && x.Name == timeName &&
				slices.Contains([]string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}, n.Sel.Name) {
				say(n.Pos(), "time."+n.Sel.Name, "use the context's time and timers")
			}
		case *ast.GoStmt:
			say(n.Pos(), "a go statement", "the engine runs workflow code on one goroutine")
		case *ast.SelectStmt:
			say(n.Pos(), "a select statement", "only tasks and events of the engine are replayed")
		}
		return true
	})
	return found
}

// eachGoFile visits the module's Go files below dir, except other modules and what no build sees.
func eachGoFile(t *testing.T, dir string, visit func(path string, file *ast.File, fset *token.FileSet)) {
	t.Helper()
	fset := token.NewFileSet()
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			name := d.Name()
			if path != dir && (strings.HasPrefix(name, ".") || name == "testdata") || relative == "bin" {
				return filepath.SkipDir
			}
			if modules, _ := filepath.Glob(filepath.Join(path, "go.mod")); len(modules) > 0 && relative != "." {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		file, err := parser.ParseFile(fset, path, nil, 0)
		if err != nil {
			return err
		}
		visit(filepath.ToSlash(relative), file, fset)
		return nil
	}))
}

func packageOf(file string) string {
	return strings.TrimSuffix(filepath.ToSlash(filepath.Dir(file)), "/")
}
