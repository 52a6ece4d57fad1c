package localstack

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestComponentsAreRenderedForRenamedApps(t *testing.T) {
	from, beside, to := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "rendered")
	require.NoError(t, os.WriteFile(filepath.Join(from, "two.yaml"), []byte(`
metadata: {name: orders}
spec: {topic: orders, targets: {apps: {orders: {timeout: 3s}, stranger: {timeout: 4s}}}}
scopes: [orders, stranger]
---
metadata: {name: second}
scopes: [payment]
`), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(beside, "one.yaml"), []byte("scopes: [orders]\n"), 0o644))
	apps := map[string]string{"orders": "orders-1", "payment": "payment-1"}
	require.NoError(t, os.MkdirAll(to, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(to, "left-over.yaml"), nil, 0o644))

	require.NoError(t, RenderComponents(to, apps, from, beside))
	two, err := os.ReadFile(filepath.Join(to, "two.yaml"))
	require.NoError(t, err)
	require.Equal(t, `# Rendered from components/two.yaml at each start; changes here are lost.
metadata:
    name: orders
scopes:
    - orders-1
    - stranger
spec:
    targets:
        apps:
            orders-1:
                timeout: 3s
            stranger:
                timeout: 4s
    topic: orders
---
metadata:
    name: second
scopes:
    - payment-1
`, string(two))
	one, err := os.ReadFile(filepath.Join(to, "one.yaml"))
	require.NoError(t, err)
	require.Contains(t, string(one), "orders-1")
	require.NoFileExists(t, filepath.Join(to, "left-over.yaml"))

	require.ErrorContains(t, RenderComponents(to, apps, from, from), "file exists", "one file must not hide another")
	require.ErrorContains(t, RenderComponents(to, apps, t.TempDir()), "no component files")
}
