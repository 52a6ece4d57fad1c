package notification

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/stretchr/testify/require"
)

func TestAMailSaysWhoWhatAndWhichEvent(t *testing.T) {
	t.Parallel()
	server := startMailServer(t)
	require.NoError(t, mailer(t, server).Send(t.Context(), hello("cus-1.x_y")))
	got := server.taken()[0]
	require.Equal(t, "orders@shop.example", got.from)
	require.Equal(t, "cus-1.x_y@customers.example", got.to)
	require.Equal(t, strings.ReplaceAll(`From: =?utf-8?q?K=C3=BChne_Shop?= <orders@shop.example>
To: cus-1.x_y@customers.example
Subject: Your order ord-1 is placed
Date: Mon, 02 Mar 2026 10:00:00 +0000
Message-ID: <8c5dfdeb46885d7848a24676aa343012@shop.example>
Auto-Submitted: auto-generated
MIME-Version: 1.0
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: quoted-printable

Thank you.
`, "\n", "\r\n"), got.text)
}

func TestARepeatIsTheSameToTheByteAndAnotherEventHasAnotherID(t *testing.T) {
	t.Parallel()
	server := startMailServer(t)
	s := mailer(t, server)
	other := hello("cus-1")
	other.EventID = "orders:order:ord-1:2"
	for _, m := range []Message{hello("cus-1"), hello("cus-1"), other} {
		require.NoError(t, s.Send(t.Context(), m))
	}
	mails := server.taken()
	require.Equal(t, mails[0], mails[1])
	require.NotEqual(t, mails[0].message(t).Header.Get("Message-ID"), mails[2].message(t).Header.Get("Message-ID"))
}

func TestI9ACustomerIDThatCanBeNobodysMailboxIsRefusedAndReachesNoServer(t *testing.T) {
	t.Parallel()
	server := startMailServer(t)
	for _, id := range []string{
		"", "a b", "a@b", "a@evil.example>\r\nRCPT TO:<evil@evil.example", "a\r\nBcc: evil@evil.example", "evil%evil.example", "evil.example!evil",
		"cus+1", "-oQ", ".a", "a.", "a..b", `"a"`, "a,b", "<a>", "kühn", "a\x00", strings.Repeat("a", 65),
	} {
		err := mailer(t, server).Send(t.Context(), hello(id))
		require.ErrorIs(t, err, ErrRefused, "%q", id)
	}
	require.Zero(t, server.connections())
	require.NoError(t, mailer(t, server).Send(t.Context(), hello(strings.Repeat("a", 64))))
}

func TestI9WhatAMessageSaysCannotBecomeAHeaderOrACommand(t *testing.T) {
	t.Parallel()
	server := startMailServer(t)
	m := hello("cus-1")
	m.Subject = "ord-1\r\nBcc: evil@evil.example\r\n\r\nhello"
	m.Body = "first\n.\nMAIL FROM:<evil@evil.example>\n..\n" + strings.Repeat("long ", 400) + "\nü\n"
	require.NoError(t, mailer(t, server).Send(t.Context(), m))
	require.Len(t, server.taken(), 1)
	got := server.taken()[0].message(t)
	require.Empty(t, got.Header.Get("Bcc"))
	subject, err := new(mime.WordDecoder).DecodeHeader(got.Header.Get("Subject"))
	require.NoError(t, err)
	require.Equal(t, m.Subject, subject)
	body, err := io.ReadAll(quotedprintable.NewReader(got.Body))
	require.NoError(t, err)
	require.Equal(t, m.Body, strings.ReplaceAll(string(body), "\r\n", "\n"))
}

func TestARefusalOfTheRecipientOrTheTextIsForGoodAndTroubleIsNot(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		at      moment
		answer  error
		forGood bool
	}{
		"no such mailbox":         {atRecipient, &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no such user"}, true},
		"a mailbox that is full":  {atRecipient, &smtp.SMTPError{Code: 452, EnhancedCode: smtp.EnhancedCode{4, 2, 2}, Message: "mailbox full"}, false},
		"a text taken for spam":   {inText, &smtp.SMTPError{Code: 554, EnhancedCode: smtp.EnhancedCode{5, 7, 1}, Message: "spam"}, true},
		"a disk that is full":     {inText, &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 0}, Message: "try later"}, false},
		"a connection that broke": {inText, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startMailServer(t)
			server.behave(func(at moment, s *session) error {
				switch {
				case at != c.at:
					return nil
				case c.answer == nil:
					return s.die()
				}
				return c.answer
			})
			err := mailer(t, server).Send(t.Context(), hello("cus-1"))
			require.Error(t, err)
			if c.forGood {
				require.ErrorIs(t, err, ErrRefused)
			} else {
				require.NotErrorIs(t, err, ErrRefused)
			}
			if c.answer != nil {
				require.ErrorContains(t, err, c.answer.(*smtp.SMTPError).Message)
			}
		})
	}
}

func TestAServerThatSaysNothingIsLeftWhenTheTimeIsOver(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	s := mailer(t, &mailServer{address: listener.Addr().String()})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begun := time.Now()
	require.ErrorContains(t, s.Send(ctx, hello("cus-1")), "greet mail server: ")
	require.Less(t, time.Since(begun), 5*time.Second)
}

func TestAServerThatOffersItIsSpokenToEncryptedAndMustBeItself(t *testing.T) {
	t.Parallel()
	web := httptest.NewTLSServer(nil) // For its certificate, of 127.0.0.1.
	defer web.Close()
	server := &mailServer{address: "127.0.0.1:0", tls: &tls.Config{Certificates: web.TLS.Certificates}}
	server.start(t)
	t.Cleanup(server.stop)
	var encrypted atomic.Bool
	server.behave(func(_ moment, s *session) error {
		_, is := s.conn.TLSConnectionState()
		encrypted.Store(is)
		return nil
	})
	s := mailer(t, server)
	err := s.Send(t.Context(), hello("cus-1"))
	require.ErrorContains(t, err, "encrypt: ")
	require.NotErrorIs(t, err, ErrRefused)
	require.Empty(t, server.taken(), "it did not go unencrypted instead")

	s.roots = x509.NewCertPool()
	s.roots.AddCert(web.Certificate())
	require.NoError(t, s.Send(t.Context(), hello("cus-1")))
	require.Len(t, server.taken(), 1)
	require.True(t, encrypted.Load())
}

func TestI9WrongSettingsAreToldAllAtOnceByTheirNames(t *testing.T) {
	t.Parallel()
	good := Config{SMTPAddress: "mail:25", From: "Shop <orders@shop.example>", MailDomain: "customers.example"}
	_, err := newSMTP(good)
	require.NoError(t, err)
	_, err = newSMTP(Config{SMTPAddress: "mail", From: "orders", MailDomain: "a b"})
	for _, variable := range []string{"NOTIFICATION_SMTP_ADDR: ", "NOTIFICATION_SMTP_FROM: ", "NOTIFICATION_MAIL_DOMAIN: "} {
		require.ErrorContains(t, err, variable)
	}
	for _, c := range []Config{
		{SMTPAddress: ":25", From: good.From, MailDomain: good.MailDomain},
		{SMTPAddress: good.SMTPAddress, From: "a@b\r\nBcc: c@d", MailDomain: good.MailDomain},
		{SMTPAddress: good.SMTPAddress, From: "a@[127.0.0.1]", MailDomain: good.MailDomain},
		{SMTPAddress: good.SMTPAddress, From: good.From, MailDomain: "a.example>\r\n"},
		{SMTPAddress: good.SMTPAddress, From: good.From},
	} {
		_, err := newSMTP(c)
		require.Error(t, err, c)
	}
}

func mailer(t *testing.T, server *mailServer) *smtpSender {
	t.Helper()
	s, err := newSMTP(Config{SMTPAddress: server.address, From: "Kühne Shop <orders@shop.example>", MailDomain: "customers.example"})
	require.NoError(t, err)
	return s
}

func hello(customer string) Message {
	return Message{
		EventID: "orders:order:ord-1:1", OrderID: "ord-1", CustomerID: customer,
		Subject: "Your order ord-1 is placed", Body: "Thank you.\n", CreatedAt: time.Date(2026, time.March, 2, 10, 0, 0, 0, time.UTC),
	}
}
