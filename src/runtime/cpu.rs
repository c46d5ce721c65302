//! Whether this CPU has what the program was built for. A build for a newer one would end with SIGILL, without a word.
//!
//! It looks at what `-C target-cpu` switched on and CPUID can deny; it changes nothing.

/// Names of what this build uses and this CPU lacks. Empty for the generic build, and elsewhere than on x86-64.
///
/// Source: AMD64 Architecture Programmer's Manual, volume 3, appendix E (CPUID).
#[cfg(target_arch = "x86_64")]
pub fn lacking() -> Vec<&'static str> {
    use std::arch::x86_64::{__cpuid, __cpuid_count};

    // The detection macro of the standard library answers at compile time for what is switched on: CPUID is asked itself.
    let (leaves, extended_leaves) = (__cpuid(0).eax, __cpuid(0x8000_0000).eax);
    let basic = __cpuid(1);
    let structured = if leaves >= 7 { __cpuid_count(7, 0).ebx } else { 0 };
    let extended = if extended_leaves >= 0x8000_0001 { __cpuid(0x8000_0001).ecx } else { 0 };
    let wanted = [
        (cfg!(target_feature = "sse4.2"), basic.ecx >> 20, "sse4.2"),
        (cfg!(target_feature = "popcnt"), basic.ecx >> 23, "popcnt"),
        (cfg!(target_feature = "pclmulqdq"), basic.ecx >> 1, "pclmulqdq"),
        (cfg!(target_feature = "avx"), basic.ecx >> 28, "avx"),
        (cfg!(target_feature = "fma"), basic.ecx >> 12, "fma"),
        (cfg!(target_feature = "movbe"), basic.ecx >> 22, "movbe"),
        (cfg!(target_feature = "bmi1"), structured >> 3, "bmi1"),
        (cfg!(target_feature = "avx2"), structured >> 5, "avx2"),
        (cfg!(target_feature = "bmi2"), structured >> 8, "bmi2"),
        (cfg!(target_feature = "adx"), structured >> 19, "adx"),
        (cfg!(target_feature = "sha"), structured >> 29, "sha"),
        (cfg!(target_feature = "lzcnt"), extended >> 5, "lzcnt"),
        (cfg!(target_feature = "sse4a"), extended >> 6, "sse4a"),
    ];
    wanted.into_iter().filter(|(is_built_in, bits, _)| *is_built_in && bits & 1 == 0).map(|(_, _, name)| name).collect()
}

#[cfg(not(target_arch = "x86_64"))]
pub fn lacking() -> Vec<&'static str> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_machine_that_runs_this_test_has_what_it_was_built_for() {
        assert_eq!(super::lacking(), Vec::<&str>::new());
    }
}
