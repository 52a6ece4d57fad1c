package architecture

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// An operator who sees a number on /metrics must find what it means, and none in the document may be looked for in vain.
func TestEveryMetricStandsInTheDocumentAndTheOtherWayRound(t *testing.T) {
	declared := map[string]string{} // where, by name
	eachGoFile(t, root, func(path string, file *ast.File, _ *token.FileSet) {
		if strings.HasSuffix(path, "_test.go") {
			return
		}
		names, unreadable := metricsIn(file)
		if unreadable > 0 {
			t.Errorf("%s declares a metric whose name is no literal, so that nobody can search for it", path)
		}
		for _, name := range names {
			if where, twice := declared[name]; twice {
				t.Errorf("metric %s is declared in %s and in %s", name, where, path)
			}
			declared[name] = path
		}
	})
	require.NotEmpty(t, declared)

	text, err := os.ReadFile(filepath.Join(root, "docs", "metrics.md"))
	require.NoError(t, err)
	documented := metricsInDocument(string(text))
	for name, where := range declared {
		if !slices.Contains(documented, name) {
			t.Errorf("metric %s of %s does not stand in docs/metrics.md", name, where)
		}
	}
	for _, name := range documented {
		if declared[name] == "" {
			t.Errorf("docs/metrics.md tells of metric %s, which there is not", name)
		}
	}
}

func TestEachWayToDeclareAMetricIsSeen(t *testing.T) {
	for name, test := range map[string]struct {
		code       string
		want       []string
		unreadable int
	}{
		"a counter":                        {`prometheus.NewCounter(prometheus.CounterOpts{Name: "a_total", Help: "A."})`, []string{"a_total"}, 0},
		"a histogram by labels":            {`prometheus.NewHistogramVec(prometheus.HistogramOpts{Help: "A.", Name: "a_seconds"}, nil)`, []string{"a_seconds"}, 0},
		"a description":                    {`prometheus.NewDesc("a", "A.", nil, nil)`, []string{"a"}, 0},
		"a name that is computed":          {`prometheus.NewDesc(prefix+"a", "A.", nil, nil)`, nil, 1},
		"options whose name is a constant": {`prometheus.NewGauge(prometheus.GaugeOpts{Name: name})`, nil, 1},
		"what is not of a metric":          {`process.Part{Name: "sweeper"}`, nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			file, err := parser.ParseFile(token.NewFileSet(), "x.go", "package x\nvar x = "+test.code, 0)
			require.NoError(t, err)
			names, unreadable := metricsIn(file)
			require.Equal(t, test.want, names)
			require.Equal(t, test.unreadable, unreadable)
		})
	}
}

// metricsIn are the names of the metrics that a file declares, and how many names cannot be read.
func metricsIn(file *ast.File) (names []string, unreadable int) {
	add := func(name ast.Expr) {
		literal, is := name.(*ast.BasicLit)
		if !is {
			unreadable++
			return
		}
		text, _ := strconv.Unquote(literal.Value) // The parser has read it.
		names = append(names, text)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			if ofPrometheus(n.Fun) == "NewDesc" && len(n.Args) > 0 {
				add(n.Args[0])
			}
		case *ast.CompositeLit:
			if !strings.HasSuffix(ofPrometheus(n.Type), "Opts") {
				break
			}
			for _, e := range n.Elts {
				if field, is := e.(*ast.KeyValueExpr); is && field.Key.(*ast.Ident).Name == "Name" {
					add(field.Value)
				}
			}
		}
		return true
	})
	return names, unreadable
}

// ofPrometheus is the name of what is taken from package prometheus; empty where it is something else.
func ofPrometheus(e ast.Expr) string {
	selector, is := e.(*ast.SelectorExpr)
	if !is {
		return ""
	}
	if from, is := selector.X.(*ast.Ident); !is || from.Name != "prometheus" {
		return ""
	}
	return selector.Sel.Name
}

// documentedMetric begins a row of one of the document's tables.
var documentedMetric = regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)(?:\\{[a-z, ]+\\})?` \\|")

func metricsInDocument(text string) []string {
	var names []string
	for _, match := range documentedMetric.FindAllStringSubmatch(text, -1) {
		names = append(names, match[1])
	}
	return names
}
