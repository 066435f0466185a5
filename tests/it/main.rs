//! One integration binary for everything that needs the parts together.

mod tidy;
