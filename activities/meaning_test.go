package activities

import (
	"errors"
	"testing"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/saga/participant"
)

func TestAnErrorFromOurOwnSideOfTheWireHasNoMeaning(t *testing.T) {
	require.NotErrorIs(t, meant(connect.NewError(connect.CodeInvalidArgument, errors.New("too large to send"))), participant.ErrBadRequest)
}
