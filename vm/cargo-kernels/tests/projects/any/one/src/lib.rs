//! Has a documentation test, which is not run:
//!
//! ```
//! panic!();
//! ```

#[cfg(test)]
mod tests {
    #[test]
    fn of_the_library() {}

    #[test]
    #[should_panic(expected = "boom")]
    fn that_should_panic() {
        panic!("boom");
    }

    #[test]
    #[ignore = "never run"]
    fn that_is_ignored() {
        panic!();
    }
}
