package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

const maxRPS = 1000

// Pace are the flags of every verb that does something to many.
type Pace struct {
	// Yes says not to ask.
	Yes bool
	// RPS is how many a second at most.
	RPS int
}

// AddTo gives cmd the flags --yes and --rps.
func (p *Pace) AddTo(cmd *cobra.Command, rps int) {
	cmd.Flags().BoolVar(&p.Yes, "yes", false, "do not ask whether to go on")
	cmd.Flags().IntVar(&p.RPS, "rps", rps, fmt.Sprintf("how many a second at most, 1 to %d", maxRPS))
}

// Validate is to be called before anything is done.
func (p *Pace) Validate() error {
	if p.RPS < 1 || p.RPS > maxRPS {
		return Usage("--rps must be 1 to %d", maxRPS)
	}
	return nil
}

// Ticker ticks when the next n may be done.
func (p *Pace) Ticker(n int) *time.Ticker {
	return time.NewTicker(time.Duration(n) * time.Second / time.Duration(p.RPS))
}
