package host_test

import (
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	sagav1 "github.com/checkoutsaga/orchestrator/gen/saga/v1"
)

// examined is what the doctor of a program finds, by check.
func (s *system) examined() (found map[string]*sagav1.Finding, settings map[string]string) {
	s.t.Helper()
	answer, err := s.sagas.Doctor(s.ctx(), connect.NewRequest(&sagav1.DoctorRequest{}))
	require.NoError(s.t, err)
	found, settings = make(map[string]*sagav1.Finding), make(map[string]string)
	for _, f := range answer.Msg.Findings {
		found[f.Check] = f
	}
	for _, set := range answer.Msg.Settings {
		settings[set.Name] = set.Value
	}
	return found, settings
}

// finds waits until the doctor finds something wrong, with these words in what it says and in how to mend it.
func (s *system) finds(check, detail, mend string) {
	s.t.Helper()
	var last *sagav1.Finding
	require.Eventually(s.t, func() bool {
		found, _ := s.examined()
		last = found[check]
		return last != nil && !last.Ok
	}, 30*time.Second, 10*time.Millisecond, "%s is to be found", check)
	require.Contains(s.t, last.Detail, detail)
	require.Contains(s.t, last.Mend, mend)
}

func (s *system) exec(sql string, args ...any) {
	s.t.Helper()
	done, err := s.host.Pool.Exec(s.t.Context(), sql, args...)
	require.NoError(s.t, err)
	require.Positive(s.t, done.RowsAffected(), "nothing was broken by %s", sql)
}

func TestTheDoctorOfAnybodysProgramFindsEachTrouble(t *testing.T) {
	s := newSystem(t, trips)
	s.start("trip", "fine", ada)
	s.ends("trip", "fine", sagav1.Status_STATUS_CONFIRMED) // By then the engine runs.
	found, settings := s.examined()
	for check, f := range found {
		require.True(t, f.Ok, "%s: %s", check, f.Detail)
		require.Empty(t, f.Mend)
	}
	require.Subset(t, keys(found), []string{
		"database", "migrations", "clock", "engine embedded", "sweeper", "parts of this process", "participant airline", "participant agency",
		"participant bank", "held back", "attention", "overdue", "sagas of another engine", "definitions",
	})
	require.Equal(t, s.agency.URL, settings["AGENCY_URL"])
	require.NotContains(t, settings["ORCHESTRATOR_DATABASE_URL"], "secret")

	s.crew.on("do book-flight", fails)
	s.start("trip", "stuck", ada)
	s.needs("trip", "stuck", "failing")
	s.finds("attention", "1 saga needs it, the longest for ", "`orchestrator saga list --attention`; `orchestrator saga status NAME KEY`")

	// Nobody here drives it, so it stays as it is made.
	s.start("trip", "elsewhere", ada)
	s.exec(`UPDATE sagas SET engine = 'dapr' WHERE key = 'elsewhere'`)
	s.finds("sagas of another engine", "1 of engine dapr are open, and engine embedded does not drive them", "`orchestrator saga redrive`")
	s.exec(`UPDATE sagas SET plan = jsonb_set(plan, '{version}', '7') WHERE key = 'elsewhere'`)
	found, _ = s.examined()
	require.True(t, found["definitions"].Ok)
	require.Equal(t, "1 of trip version 7 are open, and go on by their own plans", found["definitions"].Detail)
	s.exec(`UPDATE sagas SET plan = jsonb_set(plan, '{steps,0,participant}', '"sea-line"') WHERE key = 'elsewhere'`)
	s.finds("participant sea-line", "trip elsewhere needs it", "set SEA_LINE_URL")
	s.close()
	s.open(tours)
	s.finds("definitions", "no such definition: 1 of trip version 1, 1 of trip version 7 are open", "run a program that has it")

	require.Eventually(t, func() bool { // Until the doctor looks before the sweeper does.
		s.exec(`UPDATE sagas SET check_at = now() - interval '5 minutes' WHERE key = 'stuck'`)
		found, _ := s.examined()
		return !found["overdue"].Ok && found["overdue"].Mend != ""
	}, 30*time.Second, time.Millisecond)

	s.crew.on("do book-flight", nil)
	s.agency.CloseClientConnections()
	require.NoError(t, s.agency.Listener.Close())
	s.finds("participant agency", "refused", "start it")
	for _, key := range []string{"1", "2", "3", "4", "5", "6", "7", "8"} {
		s.start("tour", "waits-"+key, ada)
	}
	s.finds("held back", "agency is not called", "the sagas that wait for it go on by themselves")

	s.exec(`DELETE FROM goose_db_version WHERE version_id > 0`)
	s.finds("migrations", "are not applied", "restart the orchestrator")
}

func keys[V any](of map[string]V) (all []string) {
	for key := range of {
		all = append(all, key)
	}
	return all
}

func TestTheHistoriesOfOpenSagasOfAllDefinitionsAreSent(t *testing.T) {
	s := newSystem(t, trips, tours)
	s.crew.on("do book-hotel", fails)
	s.start("trip", "t-1", ada)
	s.start("tour", "t-1", ada)
	s.tried("trip", "t-1", "book-hotel")
	s.tried("tour", "t-1", "book-hotel")
	stream, err := s.sagas.ListOpenHistories(s.ctx(), connect.NewRequest(&sagav1.ListOpenHistoriesRequest{}))
	require.NoError(t, err)
	var sent []string
	for stream.Receive() {
		m := stream.Msg()
		require.Empty(t, m.Unreadable)
		require.NotEmpty(t, m.Events)
		sent = append(sent, m.InstanceId+" at "+m.Step)
	}
	require.NoError(t, stream.Err())
	require.Equal(t, []string{"tour.t-1-1 at book-hotel", "trip.t-1-1 at book-hotel"}, sent)
}

func TestAHistoryIsFollowedToItsEndAndEachEntryToldOnce(t *testing.T) {
	s := newSystem(t, trips)
	release := s.crew.hang("do book-hotel")
	s.start("trip", "t-1", ada)
	stream, err := s.sagas.FollowHistory(s.ctx(), connect.NewRequest(&sagav1.FollowHistoryRequest{Definition: "trip", Key: "t-1"}))
	require.NoError(t, err)
	require.True(t, stream.Receive())
	release()
	told := stream.Msg().Entries
	for stream.Receive() {
		told = append(told, stream.Msg().Entries...)
	}
	require.NoError(t, stream.Err())
	last := told[len(told)-1]
	require.Equal(t, []string{"status", "CONFIRMED"}, []string{last.Kind, last.Outcome})
	all, err := s.sagas.History(s.ctx(), connect.NewRequest(&sagav1.HistoryRequest{Definition: "trip", Key: "t-1"}))
	require.NoError(t, err)
	require.Len(t, told, len(all.Msg.Entries))

	stream, err = s.sagas.FollowHistory(s.ctx(), connect.NewRequest(&sagav1.FollowHistoryRequest{Definition: "trip", Key: "nobody"}))
	require.NoError(t, err)
	require.False(t, stream.Receive())
	require.Equal(t, connect.CodeNotFound, connect.CodeOf(stream.Err()))
}
