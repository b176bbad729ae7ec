use crate::CommandError;

/// The longest value that a client may send, in bytes. QEMU takes 64 MiB; no command that is known here needs 4 KiB.
pub const MAX_VALUE_BYTES: usize = 1 << 20;

/// How deep objects and arrays may lie in each other. Below `serde_json`'s own limit of 128, which guards its stack.
pub const MAX_DEPTH: u32 = 64;

/// Cuts a stream of bytes into JSON values, without parsing them.
///
/// A value ends where its braces balance, because clients exist that send no newline (the Python package `qemu.qmp`) and
/// people paste values of several lines. Broken input must not swallow what follows, so a value also ends where it can no
/// longer become whole: at a newline inside a string, and at a line that begins with `{` where JSON allows no object. What
/// is too long or too deep is skipped up to its end, or up to the next newline, without being kept.
#[derive(Debug, Default)]
pub struct Splitter {
    mode: Mode,
    /// The value so far.
    value: Vec<u8>,
    /// Objects and arrays that are open.
    depth: u32,
    in_string: bool,
    /// The byte before was a backslash in a string.
    escaped: bool,
    /// Only blanks came since the last newline.
    at_line_start: bool,
    /// The last byte that was no blank.
    last: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mode {
    /// Before a value.
    #[default]
    Between,
    /// In an object, an array or a string.
    Inside,
    /// In anything else, up to the next blank: a number, a word, rubbish.
    Word,
    /// In a value that was refused.
    Skipping,
}

/// Input that is refused before it is parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// More than [`MAX_VALUE_BYTES`].
    #[error(
        "JSON value is longer than {MAX_VALUE_BYTES} bytes: it was ignored, up to its end or the end of its line"
    )]
    TooLong,
    /// More than [`MAX_DEPTH`] levels.
    #[error("JSON nesting depth limit of {MAX_DEPTH} exceeded: the value was ignored")]
    TooDeep,
}

impl From<FrameError> for CommandError {
    fn from(error: FrameError) -> Self {
        Self::generic(error.to_string())
    }
}

impl Splitter {
    /// At the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes off `input` until a value is whole, and returns it; `None` when `input` is used up. The value is cut out
    /// right if it is JSON at all; whether it is, the parser finds out.
    pub fn next(&mut self, input: &mut &[u8]) -> Option<Result<Vec<u8>, FrameError>> {
        while let Some((&byte, rest)) = input.split_first() {
            let step = self.step(byte);
            if step != Step::Before {
                *input = rest;
            }
            match step {
                Step::More => {}
                Step::End | Step::Before => return Some(Ok(self.take())),
                Step::Refuse(error) => {
                    self.value = Vec::new();
                    self.mode = Mode::Skipping;
                    return Some(Err(error));
                }
            }
        }
        None
    }

    /// The value that the stream ended in the middle of.
    pub fn finish(&mut self) -> Option<Vec<u8>> {
        let unfinished = matches!(self.mode, Mode::Inside | Mode::Word);
        let value = self.take();
        unfinished.then_some(value)
    }

    fn take(&mut self) -> Vec<u8> {
        std::mem::take(self).value
    }

    fn step(&mut self, byte: u8) -> Step {
        match self.mode {
            Mode::Between => self.begin(byte),
            Mode::Inside => self.inside(byte),
            Mode::Word if byte.is_ascii_whitespace() => Step::End,
            Mode::Word if matches!(byte, b'{' | b'[' | b'"') => Step::Before,
            Mode::Word => self.keep(byte),
            Mode::Skipping => self.skip(byte),
        }
    }

    fn begin(&mut self, byte: u8) -> Step {
        match byte {
            b'{' | b'[' | b'"' => {
                self.mode = Mode::Inside;
                self.inside(byte)
            }
            _ if byte.is_ascii_whitespace() => Step::More,
            _ => {
                self.mode = Mode::Word;
                self.keep(byte)
            }
        }
    }

    fn inside(&mut self, byte: u8) -> Step {
        if self.in_string && byte == b'\n' {
            return Step::End;
        }
        let abandoned = self.at_line_start && byte == b'{' && !matches!(self.last, b'{' | b'[' | b':' | b',');
        if abandoned && !self.in_string {
            return Step::Before;
        }
        let ends = self.track(byte);
        match self.keep(byte) {
            Step::More if self.depth > MAX_DEPTH => Step::Refuse(FrameError::TooDeep),
            Step::More if ends => Step::End,
            step => step,
        }
    }

    fn skip(&mut self, byte: u8) -> Step {
        if self.track(byte) || byte == b'\n' {
            self.take();
        }
        Step::More
    }

    /// Follows strings and brackets. True if the outermost value ends with this byte.
    fn track(&mut self, byte: u8) -> bool {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            self.last = byte;
            return !self.in_string && self.depth == 0;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth = self.depth.saturating_add(1),
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        self.at_line_start = byte == b'\n' || (self.at_line_start && byte.is_ascii_whitespace());
        if !byte.is_ascii_whitespace() {
            self.last = byte;
        }
        matches!(byte, b'}' | b']') && self.depth == 0
    }

    fn keep(&mut self, byte: u8) -> Step {
        if self.value.len() == MAX_VALUE_BYTES {
            return Step::Refuse(FrameError::TooLong);
        }
        self.value.push(byte);
        Step::More
    }
}

/// What a byte does to the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It goes on.
    More,
    /// It is whole with this byte.
    End,
    /// It was over before this byte, which belongs to the next one.
    Before,
    /// It is refused, and this byte with it.
    Refuse(FrameError),
}
