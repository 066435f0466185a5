//! A buffer that starts on a cache line, so that no register's load crosses two of them.

use std::ops::{Deref, DerefMut};

const LINE: usize = 64;

pub struct Aligned<T> {
    values: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Copy + Default> Aligned<T> {
    pub fn new(len: usize) -> Self {
        let spare = LINE / size_of::<T>();
        let values = vec![T::default(); len + spare];
        // `align_offset` may decline; the buffer then starts where it starts, which costs speed only.
        let start = Some(values.as_ptr().align_offset(LINE)).filter(|start| *start <= spare).unwrap_or(0);
        Self { values, start, len }
    }

    /// Makes room for `len` values; what it held is lost when it has to grow.
    pub fn reserve(&mut self, len: usize) {
        if len > self.len {
            *self = Self::new(len);
        }
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.values[self.start..self.start + self.len]
    }
}

impl<T> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.values[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_starts_on_a_cache_line_and_grows_when_asked() {
        let mut buffer = Aligned::<f32>::new(3);
        assert_eq!((buffer.len(), buffer.as_ptr() as usize % LINE), (3, 0));
        buffer.copy_from_slice(&[1.0, 2.0, 3.0]);
        buffer.reserve(2);
        assert_eq!(*buffer, [1.0, 2.0, 3.0]);
        buffer.reserve(100);
        assert_eq!((buffer.len(), buffer.as_ptr() as usize % LINE), (100, 0));
    }
}
