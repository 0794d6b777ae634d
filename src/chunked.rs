//! Where a chunked body ends, followed byte by byte (RFC 9112 section 7.1, read at its strictest).
//!
//! pingora's own reader takes a line without a size for the last chunk and lets control characters into extensions.
//! Whatever it and the next parser could read differently ends here: [`Chunks`] sees every byte of a body before
//! pingora does. It keeps no byte and allocates nothing; decoding is pingora's, who sees only what passed.
//!
//! Stricter than the RFC: no white space around a chunk size, which nobody honest sends.

use crate::head::is_token;

/// Longest extension of one chunk, in bytes.
const EXTENSION_BYTES: u32 = 256;
/// Longest trailer section without its last empty line, in bytes.
const TRAILER_BYTES: u32 = 8 * 1024;
/// No chunk is longer than the largest Content-Length the head may have.
const CHUNK_BYTES: u64 = i64::MAX.unsigned_abs();
const SIZE_DIGITS: u8 = 16;

/// The body is not framed as RFC 9112 section 7.1 has it. Where the next request would start is not known: the
/// connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// A chunked body on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunks(At);

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Size {
        size: u64,
        digits: u8,
    },
    Extension {
        size: u64,
        length: u32,
    },
    SizeLf {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// The first byte of a line behind the last chunk. `length` counts the bytes of all these lines.
    TrailerStart {
        length: u32,
    },
    TrailerName {
        length: u32,
    },
    TrailerValue {
        length: u32,
    },
    TrailerLf {
        length: u32,
    },
    LastLf,
    End,
    Broken(Malformed),
}

impl Default for Chunks {
    fn default() -> Self {
        Self(At::CHUNK)
    }
}

impl Chunks {
    /// Takes the next bytes of the connection, and says how many of them belong to this body: all, until it ends.
    ///
    /// # Errors
    /// The body is malformed. None of `bytes` may be used then, and every later call fails likewise.
    pub fn take(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut taken = 0;
        while let Some(&byte) = bytes.get(taken) {
            match self.0 {
                At::End | At::Broken(_) => break,
                At::Data { left } => {
                    let here = left.min((bytes.len() - taken) as u64);
                    self.0 = if here == left { At::DataCr } else { At::Data { left: left - here } };
                    taken += here as usize;
                }
                at => {
                    self.0 = at.after(byte).unwrap_or_else(At::Broken);
                    taken += 1;
                }
            }
        }
        match self.0 {
            At::Broken(why) => Err(why),
            _ => Ok(taken),
        }
    }

    /// The last byte of the body was taken.
    pub fn ended(&self) -> bool {
        self.0 == At::End
    }

    /// A call of [`Chunks::take`] has failed.
    pub fn broken(&self) -> bool {
        matches!(self.0, At::Broken(_))
    }
}

impl At {
    const CHUNK: Self = Self::Size { size: 0, digits: 0 };

    fn after(self, byte: u8) -> Result<Self, Malformed> {
        match (self, byte) {
            (Self::Size { digits: 0, .. }, b) if !b.is_ascii_hexdigit() => {
                Err(Malformed("a chunk has no size"))
            }
            (Self::Size { size, .. }, b'\r') => Ok(Self::SizeLf { size }),
            (Self::Size { size, .. }, b';') => Ok(Self::Extension { size, length: 0 }),
            (Self::Size { size, digits }, b) => add_digit(size, digits, b),
            (Self::Extension { size, .. }, b'\r') => Ok(Self::SizeLf { size }),
            (Self::Extension { .. }, b) if is_control(b) => {
                Err(Malformed("there is a control character in a chunk extension"))
            }
            (Self::Extension { length: EXTENSION_BYTES, .. }, _) => {
                Err(Malformed("a chunk extension is too long"))
            }
            (Self::Extension { size, length }, _) => Ok(Self::Extension { size, length: length + 1 }),
            (Self::SizeLf { size: 0 }, b'\n') => Ok(Self::TrailerStart { length: 0 }),
            (Self::SizeLf { size }, b'\n') => Ok(Self::Data { left: size }),
            (Self::SizeLf { .. }, _) => Err(Malformed("there is a bare CR behind a chunk size")),
            (Self::DataCr, b'\r') => Ok(Self::DataLf),
            (Self::DataLf, b'\n') => Ok(Self::CHUNK),
            (Self::DataCr | Self::DataLf, _) => Err(Malformed("a chunk does not end where its size says")),
            (Self::TrailerStart { .. }, b'\r') => Ok(Self::LastLf),
            (Self::LastLf, b'\n') => Ok(Self::End),
            (Self::LastLf, _) => Err(Malformed("there is a bare CR in the trailers")),
            (Self::TrailerStart { length: n }, b) if is_token(b) => {
                trailer(n, |length| Self::TrailerName { length })
            }
            (Self::TrailerStart { .. }, _) => Err(Malformed("a trailer line does not start with a name")),
            (Self::TrailerName { length: n }, b) if is_token(b) => {
                trailer(n, |length| Self::TrailerName { length })
            }
            (Self::TrailerName { length: n }, b':') => trailer(n, |length| Self::TrailerValue { length }),
            (Self::TrailerName { .. }, _) => {
                Err(Malformed("a trailer name has a character that is not allowed"))
            }
            (Self::TrailerValue { length: n }, b'\r') => trailer(n, |length| Self::TrailerLf { length }),
            (Self::TrailerValue { .. }, b) if is_control(b) => {
                Err(Malformed("there is a control character in a trailer"))
            }
            (Self::TrailerValue { length: n }, _) => trailer(n, |length| Self::TrailerValue { length }),
            (Self::TrailerLf { length: n }, b'\n') => trailer(n, |length| Self::TrailerStart { length }),
            (Self::TrailerLf { .. }, _) => Err(Malformed("there is a bare CR in a trailer")),
            // `take` never asks for the byte after these.
            (Self::Data { .. } | Self::End | Self::Broken(_), _) => Ok(self),
        }
    }
}

fn add_digit(size: u64, digits: u8, byte: u8) -> Result<At, Malformed> {
    let digit =
        char::from(byte).to_digit(16).ok_or(Malformed("a chunk size is not a plain hexadecimal number"))?;
    // Sixteen digits fill 64 bits and cannot overflow them.
    let size = size << 4 | u64::from(digit);
    if digits == SIZE_DIGITS || size > CHUNK_BYTES {
        return Err(Malformed("a chunk size is too large"));
    }
    Ok(At::Size { size, digits: digits + 1 })
}

fn trailer(length: u32, next: impl Fn(u32) -> At) -> Result<At, Malformed> {
    match length {
        TRAILER_BYTES => Err(Malformed("the trailer section is too long")),
        n => Ok(next(n + 1)),
    }
}

/// Any control character but HTAB.
fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}

#[cfg(test)]
#[path = "chunked_tests.rs"]
mod tests;
