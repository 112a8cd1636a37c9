#[test]
fn crash() {
    prove::fuzzing::run("outbox", &std::fs::read("/tmp/outbox-crash").unwrap());
}
