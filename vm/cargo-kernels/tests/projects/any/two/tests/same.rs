//! A test target of the same name as in another package.

#[test]
fn of_two() {}
