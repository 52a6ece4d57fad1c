package dapr

import (
	"bytes"
	"context"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	sdk "github.com/dapr/go-sdk/client"
	"github.com/stretchr/testify/require"

	"github.com/checkoutsaga/orchestrator/internal/events/bus"
)

func TestAHandlersAnswerIsWhatTheSidecarIsTold(t *testing.T) {
	t.Parallel()
	for _, answer := range []bus.Answer{bus.Success, bus.Retry, bus.Drop} {
		got, res := push(t, topic, `{"id": "e-1", "data": {"a": 1}}`, answer)
		require.Equal(t, http.StatusOK, res.Code)
		require.JSONEq(t, `{"status": "`+answer.String()+`"}`, res.Body.String())
		require.Equal(t, bus.Delivery{Topic: topic, ID: "e-1", Data: []byte(`{"a": 1}`)}, got[0])
	}
}

func TestATopicWithoutAHandlerIsDropped(t *testing.T) {
	t.Parallel()
	got, res := push(t, "orders.order.status_changed", `{}`, bus.Success)
	require.Equal(t, http.StatusNotFound, res.Code) // Dapr drops what gets this answer.
	require.Empty(t, got)
}

func TestAMessageThatCannotBeReadReachesTheHandlerAsBroken(t *testing.T) {
	t.Parallel()
	got, _ := push(t, topic, `{`, bus.Drop)
	require.ErrorContains(t, got[0].Broken, "no CloudEvent")
	require.Equal(t, `{`, string(got[0].Data))

	// A CloudEvent may be binary; it keeps its id, by which its dead letter finds the cause.
	binary := `{"id": "e-1", "data_base64": "aGk="}`
	got, _ = push(t, topic, binary, bus.Drop)
	require.Error(t, got[0].Broken)
	require.Equal(t, bus.Open(topic, []byte(binary)).MessageID(), got[0].MessageID())
}

func TestADeadLetterIsTheMessageAsItWas(t *testing.T) {
	t.Parallel()
	for _, message := range []string{`{"id": "e-1", "data": {"a": 1}}`, "\x00 no JSON", ""} {
		wrapped := `{"id": "new", "data_base64": "` + base64.StdEncoding.EncodeToString([]byte(message)) + `"}`
		got, _ := push(t, bus.DeadLettersOf(topic), wrapped, bus.Success)
		require.Equal(t, bus.Delivery{Topic: bus.DeadLettersOf(topic), Data: []byte(message)}, got[0])
	}
}

func TestAMessageOfAnySizeIsNotRead(t *testing.T) {
	t.Parallel()
	got, res := push(t, topic, strings.Repeat(" ", maxMessage+1), bus.Success)
	require.Equal(t, http.StatusRequestEntityTooLarge, res.Code)
	require.Empty(t, got)
}

func TestADeadLetterMayBeLargerThanWhatASidecarPublishes(t *testing.T) {
	t.Parallel()
	message := bytes.Repeat([]byte("x"), 2*maxMessage)
	got, _ := push(t, bus.DeadLettersOf(topic), `{"data_base64": "`+base64.StdEncoding.EncodeToString(message)+`"}`, bus.Success)
	require.True(t, bytes.Equal(message, got[0].Data))
}

func TestWhatNoSidecarSendsIsNoEvent(t *testing.T) {
	t.Parallel()
	for contentType, want := range map[string]int{
		"application/cloudevents+json":                http.StatusOK, // One event, as raw payload too (daprd's postman/http).
		"application/cloudevents+json; charset=utf-8": http.StatusOK,
		"Application/JSON":                            http.StatusOK, // Several at once.
		"text/plain":                                  http.StatusUnsupportedMediaType,
		"text/plain; application/json":                http.StatusUnsupportedMediaType,
		"application/x-www-form-urlencoded":           http.StatusUnsupportedMediaType,
		"multipart/form-data; boundary=x":             http.StatusUnsupportedMediaType,
		"":                                            http.StatusUnsupportedMediaType,
	} {
		for _, to := range []string{topic, bus.DeadLettersOf(topic)} {
			got, res := pushAs(t, contentType, to, strings.NewReader(`{"id": "e-1", "data": {}}`), bus.Success)
			require.Equal(t, want, res.Code, contentType)
			require.Equal(t, want == http.StatusOK, len(got) == 1, contentType)
		}
	}
}

func TestAMessageThatArrivesTooSlowlyIsAskedForAgain(t *testing.T) {
	t.Parallel()
	got, res := pushAs(t, "application/json", topic, iotest.ErrReader(os.ErrDeadlineExceeded), bus.Success)
	require.Equal(t, http.StatusRequestTimeout, res.Code)
	require.Empty(t, got)
}

// push posts a message to the routes of an app that is subscribed to topic and its dead letters.
func push(t *testing.T, to, message string, answer bus.Answer) (got []bus.Delivery, res *httptest.ResponseRecorder) {
	t.Helper()
	return pushAs(t, "application/cloudevents+json", to, strings.NewReader(message), answer)
}

func pushAs(t *testing.T, contentType, to string, message io.Reader, answer bus.Answer) (got []bus.Delivery, res *httptest.ResponseRecorder) {
	t.Helper()
	handle := func(_ context.Context, d bus.Delivery) bus.Answer {
		got = append(got, d)
		return answer
	}
	mux := http.NewServeMux()
	mux.Handle(Routes([]bus.Subscription{{Topic: topic, Handle: handle}, {Topic: bus.DeadLettersOf(topic), Handle: handle}}))
	res = httptest.NewRecorder()
	req := httptest.NewRequest(http.MethodPost, "/events/"+to, message)
	req.Header.Set("Content-Type", contentType)
	mux.ServeHTTP(res, req)
	return got, res
}

func TestAStreamHasABoundedNumberOfMessagesInHand(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	received, goOn := make(chan *sdk.SubscriptionMessage), make(chan struct{})
	var begun atomic.Int32
	var inHand sync.WaitGroup
	ended := make(chan error, 1)
	go func() {
		ended <- take(ctx, &inHand, received, nil, func(*sdk.SubscriptionMessage) {
			begun.Add(1)
			<-goOn
		})
	}()
	for range streamed {
		received <- nil
	}
	select {
	case received <- nil:
		t.Fatal("one more was taken")
	case <-time.After(50 * time.Millisecond):
	}
	require.Eventually(t, func() bool { return begun.Load() == streamed }, 5*time.Second, time.Millisecond)
	goOn <- struct{}{}
	received <- nil // There is a place again.
	cancel()
	require.NoError(t, <-ended)
	close(goOn)
	inHand.Wait()
	require.EqualValues(t, streamed+1, begun.Load())
}

func TestAStreamThatBreaksEnds(t *testing.T) {
	t.Parallel()
	broken := make(chan error, 1)
	broken <- io.ErrUnexpectedEOF
	require.ErrorIs(t, take(t.Context(), nil, nil, broken, nil), io.ErrUnexpectedEOF)
}
