//! Server-sent events, as the WHATWG HTML standard (section 9.2.6) frames them: bytes in, events out, however
//! the bytes are cut.

use crate::types::{Error, ErrorKind, Result};

/// Largest event, in bytes; beyond it the stream is refused instead of kept in memory.
pub const MAX_EVENT_BYTES: usize = 32 << 20;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    /// Value of the `event` field; empty when there was none.
    pub name: String,
    /// `data` lines, joined by line feeds.
    pub data: String,
}

/// Collects bytes into events. Lines may end in LF, CRLF or CR; a byte order mark at the start is skipped.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    event: Event,
    has_data: bool,
    /// The last byte was CR: a LF right after it belongs to the same line end.
    after_cr: bool,
    started: bool,
}

impl Parser {
    /// Takes the next bytes and gives the events they complete.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            if std::mem::take(&mut self.after_cr) && rest[0] == b'\n' {
                rest = &rest[1..];
                continue;
            }
            let Some(end) = rest.iter().position(|b| matches!(b, b'\n' | b'\r')) else {
                self.keep(rest)?;
                break;
            };
            self.keep(&rest[..end])?;
            self.after_cr = rest[end] == b'\r';
            rest = &rest[end + 1..];
            events.extend(self.end_line());
        }
        Ok(events)
    }

    /// The event that the end of the stream completes, for servers that leave out the last blank line. (The
    /// standard drops it; here its data is JSON, and half an event does not parse.)
    pub fn finish(mut self) -> Option<Event> {
        if !self.line.is_empty() {
            self.end_line();
        }
        self.dispatch()
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<()> {
        if self.line.len() + self.event.data.len() + bytes.len() > MAX_EVENT_BYTES {
            return Err(Error::new(
                ErrorKind::Upstream,
                format!("an event of the stream is larger than {MAX_EVENT_BYTES} bytes"),
            ));
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self) -> Option<Event> {
        let line = std::mem::take(&mut self.line);
        let mut line = line.as_slice();
        if !std::mem::replace(&mut self.started, true) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = match line.iter().position(|b| *b == b':') {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &[][..]),
        };
        let value = String::from_utf8_lossy(value.strip_prefix(b" ").unwrap_or(value));
        match field {
            b"data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(&value);
            }
            b"event" => self.event.name = value.into_owned(),
            // Comments (an empty field name), `id`, `retry` and unknown fields say nothing here.
            _ => {}
        }
        None
    }

    fn dispatch(&mut self) -> Option<Event> {
        let event = std::mem::take(&mut self.event);
        std::mem::take(&mut self.has_data).then_some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<(String, String)> {
        let mut parser = Parser::default();
        let mut events: Vec<_> = pieces.into_iter().flat_map(|p| parser.push(p).unwrap()).collect();
        events.extend(parser.finish());
        events.into_iter().map(|e| (e.name, e.data)).collect()
    }

    fn pair(name: &str, data: &str) -> (String, String) {
        (name.into(), data.into())
    }

    #[test]
    fn line_ends_comments_and_a_byte_order_mark_are_framing_only() {
        let text = "\u{feff}data: a\r\n\r\n: ping\n\nevent: x\rdata:b\r\rid: 7\nretry: 1\nother\n\ndata: c\n\n";
        assert_eq!(parse([text.as_bytes()]), [pair("", "a"), pair("x", "b"), pair("", "c")]);
    }

    #[test]
    fn data_lines_join_and_only_one_space_is_dropped() {
        assert_eq!(parse([&b"data:  a\ndata\ndata:b:c\n\n"[..]]), [pair("", " a\n\nb:c")]);
    }

    #[test]
    fn a_last_event_without_its_blank_line_is_given_at_the_end() {
        assert_eq!(parse([&b"data: a\n\ndata: b"[..]]), [pair("", "a"), pair("", "b")]);
        assert_eq!(parse([&b"data: a\n\nevent: lonely\n"[..]]), [pair("", "a")]);
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut parser = Parser::default();
        let block = vec![b'x'; 1 << 20];
        let refused = (0..40).find_map(|_| parser.push(&block).err()).unwrap();
        assert_eq!(refused.kind, ErrorKind::Upstream);
    }

    fn any_stream() -> impl Strategy<Value = Vec<u8>> {
        let line = prop_oneof![
            "data: ?[a-zé汉😀{}\"]{0,12}",
            "event:[a-z]{0,4}",
            ":[ a-z]{0,4}",
            Just(String::new()),
            "[a-z]{0,4}:[a-z]{0,3}",
        ];
        let end = prop_oneof![Just("\n"), Just("\r\n"), Just("\r")];
        (any::<bool>(), prop::collection::vec((line, end), 0..24)).prop_map(|(bom, lines)| {
            let mut text = String::from(if bom { "\u{feff}" } else { "" });
            lines.iter().for_each(|(line, end)| text.extend([line.as_str(), end]));
            text.into_bytes()
        })
    }

    proptest! {
        #[test]
        fn any_split_of_the_bytes_gives_the_same_events(
            bytes in any_stream(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let mut at: Vec<_> = cuts.iter().map(|c| c.index(bytes.len() + 1)).collect();
            at.extend([0, bytes.len()]);
            at.sort_unstable();
            let pieces: Vec<_> = at.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            let whole = parse([bytes.as_slice()]);
            prop_assert_eq!(&parse(pieces), &whole);
            prop_assert_eq!(&parse(bytes.chunks(1)), &whole);
        }
    }
}
