package notification

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/mail"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-smtp"
	"github.com/stretchr/testify/require"
)

// mailServer is a real SMTP server on a port of its own that can be stopped, started again, and made to misbehave.
type mailServer struct {
	address string
	tls     *tls.Config

	mu       sync.Mutex
	running  *smtp.Server
	listener net.Listener
	sessions int
	mails    []taken
	// misbehave is asked at each of the moments below; an error is the server's answer.
	misbehave func(at moment, s *session) error
}

// moment is a moment of a session at which a server may misbehave.
type moment string

const (
	// atRecipient is when a recipient is named, inText when some of the text has come, and onceTaken when all has, the mail
	// is the server's, and the client is yet to hear so.
	atRecipient moment = "recipient"
	inText      moment = "text"
	onceTaken   moment = "taken"
)

// taken is a mail that the server has taken.
type taken struct{ from, to, text string }

func (m taken) message(t *testing.T) *mail.Message {
	t.Helper()
	message, err := mail.ReadMessage(strings.NewReader(m.text))
	require.NoError(t, err)
	return message
}

// startMailServer starts a server that behaves.
func startMailServer(t *testing.T) *mailServer {
	t.Helper()
	// A loopback address of its own, so that while it is down nobody else gets its port.
	m := &mailServer{address: fmt.Sprintf("127.%d.%d.%d:0", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))}
	m.start(t)
	t.Cleanup(m.stop)
	return m
}

// start starts it at the address that it had before.
func (m *mailServer) start(t *testing.T) {
	t.Helper()
	listener, err := net.Listen("tcp", m.address)
	require.NoError(t, err)
	m.address = listener.Addr().String()
	server := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.sessions++
		return &session{server: m, conn: c}, nil
	}))
	server.Domain, server.TLSConfig, server.ErrorLog = "mail.example", m.tls, log.New(io.Discard, "", 0)
	m.mu.Lock()
	m.running, m.listener = server, listener
	m.mu.Unlock()
	go func() { _ = server.Serve(listener) }()
}

// stop cuts off all that it has in hand.
func (m *mailServer) stop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	_ = m.running.Close()
	_ = m.listener.Close() // The server knows it only once it serves.
}

func (m *mailServer) behave(misbehave func(at moment, s *session) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.misbehave = misbehave
}

func (m *mailServer) taken() []taken {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]taken(nil), m.mails...)
}

// connections counts those that were ever made.
func (m *mailServer) connections() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sessions
}

// subjects are those of the mails taken, in their order.
func (m *mailServer) subjects(t *testing.T) (subjects []string) {
	t.Helper()
	for _, mail := range m.taken() {
		subjects = append(subjects, mail.message(t).Header.Get("Subject"))
	}
	return subjects
}

type session struct {
	server *mailServer
	conn   *smtp.Conn
	mail   taken
}

func (s *session) at(at moment) error {
	s.server.mu.Lock()
	misbehave := s.server.misbehave
	s.server.mu.Unlock()
	if misbehave == nil {
		return nil
	}
	return misbehave(at, s)
}

// die breaks the connection without a word.
func (s *session) die() error {
	_ = s.conn.Conn().Close()
	return io.ErrUnexpectedEOF
}

func (s *session) Reset()        {}
func (s *session) Logout() error { return nil }

func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	s.mail = taken{from: from}
	return nil
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.mail.to = to
	return s.at(atRecipient)
}

func (s *session) Data(r io.Reader) error {
	start := make([]byte, 20)
	if _, err := io.ReadFull(r, start); err != nil {
		return err
	}
	if err := s.at(inText); err != nil {
		return err
	}
	rest, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.mail.text = string(start) + string(rest)
	s.server.mu.Lock()
	s.server.mails = append(s.server.mails, s.mail)
	s.server.mu.Unlock()
	return s.at(onceTaken)
}
