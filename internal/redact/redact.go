// Package redact takes passwords out of what people see: settings, logs, findings, the output of commands.
package redact

import (
	"net/url"
	"regexp"
	"strings"
)

// mask stands where a password stood. net/http writes the same.
const mask = "xxxxx"

// URL is the address of a database or server without its passwords. What cannot be taken apart is not shown at all: a password
// may stand anywhere in it.
func URL(address string) string {
	if address == "" {
		return ""
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return "(set, not shown)"
	}
	return Text(u.Redacted())
}

var (
	// inURL is a password as the user information of a URL has it, up to the last @ before the host ends.
	inURL = regexp.MustCompile("(?i)\\b([a-z][a-z0-9+.-]*://[^\\s:/?#@\"`]*):[^\\s/?#\"`]*@")
	// inPair is one in the query of a URL or in a keyword/value connection string. It may be quoted, and the quote may be escaped,
	// because the text of a log line is.
	inPair = regexp.MustCompile(`(?i)\b((?:ssl)?password|passwd|pwd)=(\\?'[^']*'|\\?"[^"]*"|[^\s&"'` + "`" + `]+)`)
)

// Text is text, such as that of an error, without the passwords of the URLs and connection strings in it.
func Text(text string) string {
	if strings.Contains(text, "://") {
		text = inURL.ReplaceAllString(text, "${1}:"+mask+"@")
	}
	if strings.Contains(text, "=") {
		text = inPair.ReplaceAllString(text, "${1}="+mask)
	}
	return text
}
