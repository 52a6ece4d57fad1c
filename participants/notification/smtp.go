package notification

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"net/smtp"
	"net/textproto"
	"regexp"
	"strings"
	"time"
)

// Config says how to reach customers. Without an SMTPAddress, messages go to the log and reach nobody.
type Config struct {
	// SMTPAddress is the mail server's, host:port. No password is sent. If it offers STARTTLS, the connection is encrypted and its
	// certificate must be host's.
	SMTPAddress string
	// From is the sender, such as "Shop <orders@shop.example>".
	From string
	// MailDomain is where customers have their mailboxes: customer id @ domain.
	MailDomain string
}

// FromEnv reads NOTIFICATION_SMTP_ADDR, NOTIFICATION_SMTP_FROM and NOTIFICATION_MAIL_DOMAIN.
func FromEnv(getenv func(string) string) Config {
	return Config{
		SMTPAddress: getenv("NOTIFICATION_SMTP_ADDR"), From: getenv("NOTIFICATION_SMTP_FROM"), MailDomain: getenv("NOTIFICATION_MAIL_DOMAIN"),
	}
}

// smtpSender sends mail by SMTP, with one connection for each mail: customers get few, and idle connections break.
type smtpSender struct {
	address, host string
	from          *mail.Address
	fromDomain    string
	mailDomain    string
	// roots sign the mail server's certificate; nil means those that the system trusts.
	roots *x509.CertPool
}

var (
	domain = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$`)
	// mailbox is the form of a customer id that can be the local part of an address. Mail servers give other characters a meaning
	// ("+" cuts off the rest, "%" and "!" send the mail on to another host, "-" at the front is an option to a program), and
	// quoting does not always prevent that. So such an id is refused rather than mailed to somebody else.
	mailbox = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*$`)
)

// newSMTP tells all that is wrong with c, by environment variable.
func newSMTP(c Config) (*smtpSender, error) {
	var wrong []error
	say := func(variable, format string, args ...any) {
		wrong = append(wrong, fmt.Errorf("NOTIFICATION_%s: %s", variable, fmt.Sprintf(format, args...)))
	}
	host, port, err := net.SplitHostPort(c.SMTPAddress)
	if err != nil || host == "" || port == "" {
		say("SMTP_ADDR", "must be host:port, not %q", c.SMTPAddress)
	}
	from, err := mail.ParseAddress(c.From)
	fromDomain := ""
	if err == nil {
		fromDomain = from.Address[strings.LastIndexByte(from.Address, '@')+1:]
	}
	if !domain.MatchString(fromDomain) {
		say("SMTP_FROM", "must be an address such as Shop <orders@shop.example>, not %q", c.From)
	}
	if !domain.MatchString(c.MailDomain) {
		say("MAIL_DOMAIN", "must be a domain such as customers.shop.example, not %q", c.MailDomain)
	}
	if len(wrong) > 0 {
		return nil, errors.Join(wrong...)
	}
	return &smtpSender{address: c.SMTPAddress, host: host, from: from, fromDomain: fromDomain, mailDomain: c.MailDomain}, nil
}

// Send implements Sender.
func (s *smtpSender) Send(ctx context.Context, m Message) error {
	if len(m.CustomerID) > 64 || !mailbox.MatchString(m.CustomerID) {
		return fmt.Errorf("%w: the customer id %q can be nobody's mailbox", ErrRefused, m.CustomerID)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.address)
	if err != nil {
		return fmt.Errorf("reach mail server: %w", err)
	}
	defer conn.Close()
	// net/smtp knows no context. When this one ends, the connection's reads and writes time out.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	client, err := smtp.NewClient(conn, s.host)
	if err != nil {
		return fmt.Errorf("greet mail server: %w", err)
	}
	if err := client.Hello(s.fromDomain); err != nil { // Not "localhost", which many servers turn away.
		return fmt.Errorf("greet mail server: %w", err)
	}
	if offered, _ := client.Extension("STARTTLS"); offered {
		if err := client.StartTLS(&tls.Config{ServerName: s.host, RootCAs: s.roots}); err != nil {
			return fmt.Errorf("encrypt: %w", err)
		}
	}
	// A server that refuses the sender is set up wrongly. Somebody mends that: it is no reason to give a message up.
	if err := client.Mail(s.from.Address); err != nil {
		return fmt.Errorf("mail as %s: %w", s.from.Address, err)
	}
	if err := client.Rcpt(m.CustomerID + "@" + s.mailDomain); err != nil {
		return fmt.Errorf("mail to %s: %w", m.CustomerID, forGood(err))
	}
	data, err := client.Data()
	if err != nil {
		return fmt.Errorf("send text: %w", forGood(err))
	}
	if _, err := data.Write(s.text(m)); err != nil {
		return fmt.Errorf("send text: %w", err)
	}
	if err := data.Close(); err != nil {
		return fmt.Errorf("send text: %w", forGood(err))
	}
	_ = client.Quit() // The server has the mail, whatever it says now.
	return nil
}

// forGood wraps a server's refusal in ErrRefused if asking again is no use: with a code of 500 or more (RFC 5321, 4.2.1).
func forGood(err error) error {
	var answer *textproto.Error
	if errors.As(err, &answer) && answer.Code >= 500 {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return err
}

// text is the mail of a message, always the same to the byte.
func (s *smtpSender) text(m Message) []byte {
	var text bytes.Buffer
	header := func(name, value string) { fmt.Fprintf(&text, "%s: %s\r\n", name, value) }
	header("From", s.from.String())
	header("To", m.CustomerID+"@"+s.mailDomain)
	header("Subject", mime.QEncoding.Encode("utf-8", m.Subject)) // A line break in it is encoded too.
	header("Date", m.CreatedAt.UTC().Format(time.RFC1123Z))
	header("Message-ID", "<"+m.id()+"@"+s.fromDomain+">")
	header("Auto-Submitted", "auto-generated") // RFC 3834: answer no machine.
	header("MIME-Version", "1.0")
	header("Content-Type", "text/plain; charset=utf-8")
	header("Content-Transfer-Encoding", "quoted-printable")
	text.WriteString("\r\n")
	body := quotedprintable.NewWriter(&text)
	_, writeErr := body.Write([]byte(m.Body))
	if err := cmp.Or(writeErr, body.Close()); err != nil {
		panic(err) // A buffer takes everything.
	}
	return text.Bytes()
}
