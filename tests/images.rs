//! The two Dockerfiles are one recipe: they differ in the CPU they are for, and in what they say about it.

use std::fs;
use std::path::Path;

#[test]
fn the_dockerfiles_differ_in_the_cpu_alone() {
    let recipe = |cpu: &str| -> Vec<String> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("Dockerfile.{cpu}"));
        let text = fs::read_to_string(path).unwrap().replace(cpu, "CPU");
        let lines = text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned);
        lines.collect()
    };
    assert_eq!(recipe("x86-64"), recipe("znver3"));
}
