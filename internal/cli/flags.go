package cli

import "github.com/spf13/pflag"

// Entry is a flag that sets one entry of a map.
func Entry(of map[string]string, name string) pflag.Value { return entry{of, name} }

type entry struct {
	of   map[string]string
	name string
}

func (e entry) String() string         { return e.of[e.name] }
func (e entry) Set(value string) error { e.of[e.name] = value; return nil }
func (e entry) Type() string           { return "string" }

// HideDefaults keeps help from showing what the environment holds, which may be a database's password.
func HideDefaults(flags *pflag.FlagSet) {
	flags.VisitAll(func(f *pflag.Flag) {
		f.DefValue = ""
		if f.Value.Type() == "duration" {
			f.DefValue = "0s" // What pflag takes for "none".
		}
	})
}
