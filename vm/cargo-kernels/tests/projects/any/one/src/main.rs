//! Prints its arguments.

fn main() {
    println!("{:?}", std::env::args().skip(1).collect::<Vec<_>>());
}

#[cfg(test)]
mod tests {
    #[test]
    fn of_a_binary() {}
}
