package pgtest

import "testing"

func TestPoolReachesADatabaseOfItsOwn(t *testing.T) {
	var name string
	if err := Pool(t).QueryRow(t.Context(), `SELECT current_database()`).Scan(&name); err != nil {
		t.Fatal(err)
	}
	if name == "postgres" {
		t.Fatal("the test works in the server's own database")
	}
}
