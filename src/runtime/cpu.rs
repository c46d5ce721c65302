//! Whether this CPU has what the program was built for. A build for a newer one would end with SIGILL, without a word.
//!
//! `check` runs before `main`, before the allocator's first byte and before every function that the compiler made of Rust or C,
//! any of which may hold what this CPU lacks; so it is assembly that every x86-64 CPU runs. It looks at what `-C target-cpu`
//! switched on and CPUID can deny. The generic build needs nothing, and elsewhere than on x86-64 there is no check.
//!
//! Left out is what nothing here would use: random numbers of the CPU, and the kin of `xsave`.

/// One feature: whether this build uses it, and where CPUID shows it. `check` reads it by these offsets.
#[cfg(target_arch = "x86_64")]
#[repr(C)]
struct Feature {
    is_built_in: u32,
    /// Index of the word: see `check`.
    word: u32,
    bit: u32,
    name_len: u32,
    name: [u8; 16],
}

#[cfg(target_arch = "x86_64")]
impl Feature {
    const fn new(is_built_in: bool, word: u32, bit: u32, text: &str) -> Self {
        let mut name = [0; 16];
        name.split_at_mut(text.len()).0.copy_from_slice(text.as_bytes());
        Self { is_built_in: is_built_in as u32, word, bit, name_len: text.len() as u32, name }
    }
}

/// Leaf 1, ECX.
#[cfg(target_arch = "x86_64")]
const BASIC: u32 = 0;
/// Leaf 7, EBX and ECX.
#[cfg(target_arch = "x86_64")]
const STRUCTURED: u32 = 1;
#[cfg(target_arch = "x86_64")]
const STRUCTURED_MORE: u32 = 2;
/// Leaf 0x8000_0001, ECX.
#[cfg(target_arch = "x86_64")]
const EXTENDED: u32 = 3;

/// Source: AMD64 Architecture Programmer's Manual, volume 3, appendix E (CPUID).
#[cfg(target_arch = "x86_64")]
static FEATURES: [Feature; 21] = [
    Feature::new(cfg!(target_feature = "sse3"), BASIC, 0, "sse3"),
    Feature::new(cfg!(target_feature = "ssse3"), BASIC, 9, "ssse3"),
    Feature::new(cfg!(target_feature = "sse4.1"), BASIC, 19, "sse4.1"),
    Feature::new(cfg!(target_feature = "sse4.2"), BASIC, 20, "sse4.2"),
    Feature::new(cfg!(target_feature = "popcnt"), BASIC, 23, "popcnt"),
    Feature::new(cfg!(target_feature = "cmpxchg16b"), BASIC, 13, "cmpxchg16b"),
    Feature::new(cfg!(target_feature = "pclmulqdq"), BASIC, 1, "pclmulqdq"),
    Feature::new(cfg!(target_feature = "aes"), BASIC, 25, "aes"),
    Feature::new(cfg!(target_feature = "avx"), BASIC, 28, "avx"),
    Feature::new(cfg!(target_feature = "f16c"), BASIC, 29, "f16c"),
    Feature::new(cfg!(target_feature = "fma"), BASIC, 12, "fma"),
    Feature::new(cfg!(target_feature = "movbe"), BASIC, 22, "movbe"),
    Feature::new(cfg!(target_feature = "bmi1"), STRUCTURED, 3, "bmi1"),
    Feature::new(cfg!(target_feature = "avx2"), STRUCTURED, 5, "avx2"),
    Feature::new(cfg!(target_feature = "bmi2"), STRUCTURED, 8, "bmi2"),
    Feature::new(cfg!(target_feature = "adx"), STRUCTURED, 19, "adx"),
    Feature::new(cfg!(target_feature = "sha"), STRUCTURED, 29, "sha"),
    Feature::new(cfg!(target_feature = "vaes"), STRUCTURED_MORE, 9, "vaes"),
    Feature::new(cfg!(target_feature = "vpclmulqdq"), STRUCTURED_MORE, 10, "vpclmulqdq"),
    Feature::new(cfg!(target_feature = "lzcnt"), EXTENDED, 5, "lzcnt"),
    Feature::new(cfg!(target_feature = "sse4a"), EXTENDED, 6, "sse4a"),
];

#[cfg(target_arch = "x86_64")]
static BEFORE: [u8; 49] = *b"shardgate: this program was built for a CPU with ";
#[cfg(target_arch = "x86_64")]
static BETWEEN: [u8; 2] = *b", ";
#[cfg(target_arch = "x86_64")]
static BEHIND: [u8; 50] = *b", which this one lacks; take the build for x86-64\n";

/// What the C library calls first of all, in a program linked statically or not.
///
/// Source: System V ABI, Dynamic linking › Initialization and termination functions.
#[cfg(target_arch = "x86_64")]
#[used]
// SAFETY: the section holds addresses of functions with the C calling convention, and this is one.
#[unsafe(link_section = ".preinit_array")]
static CHECK: extern "C" fn() = check;

/// Ends the process with a line on standard error and exit status 1 when the CPU lacks what this build uses.
///
/// Four words of CPUID go on the stack: leaf 1 ECX, leaf 7 EBX and ECX, leaf 0x8000_0001 ECX; 0 for a leaf that is not there.
/// AVX counts only if the kernel saves its registers too. No stack but its own is touched, no memory allocated.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
extern "C" fn check() {
    // It keeps to the calling convention: rbx is put back, all else it changes is the callee's. It reads only the statics named
    // below, within their lengths, and calls the kernel alone (write 1, exit_group 231), which changes rax, rcx and r11.
    std::arch::naked_asm!(
        "push rbx",
        "sub rsp, 16",
        "mov qword ptr [rsp], 0",
        "mov qword ptr [rsp + 8], 0",
        "xor eax, eax",
        "cpuid",
        "mov r8d, eax",
        "mov eax, 1",
        "cpuid",
        "mov dword ptr [rsp], ecx",
        "cmp r8d, 7",
        "jb 2f",
        "mov eax, 7",
        "xor ecx, ecx",
        "cpuid",
        "mov dword ptr [rsp + 4], ebx",
        "mov dword ptr [rsp + 8], ecx",
        "2:",
        "mov eax, 0x80000000",
        "cpuid",
        "cmp eax, 0x80000001",
        "jb 3f",
        "mov eax, 0x80000001",
        "cpuid",
        "mov dword ptr [rsp + 12], ecx",
        // OSXSAVE, then the registers of SSE and AVX in XCR0.
        "3:",
        "bt dword ptr [rsp], 27",
        "jnc 4f",
        "xor ecx, ecx",
        "xgetbv",
        "and eax, 6",
        "cmp eax, 6",
        "je 5f",
        "4:",
        "btr dword ptr [rsp], 28",
        // r8 the feature, r9 behind the last one, r10 how many are lacking.
        "5:",
        "lea r8, [rip + {features}]",
        "lea r9, [r8 + {features_bytes}]",
        "xor r10d, r10d",
        "6:",
        "cmp r8, r9",
        "jae 22f",
        "cmp dword ptr [r8 + {is_built_in}], 0",
        "je 9f",
        "mov eax, dword ptr [r8 + {word}]",
        "mov ecx, dword ptr [r8 + {bit}]",
        "mov eax, dword ptr [rsp + rax * 4]",
        "bt eax, ecx",
        "jc 9f",
        "lea rsi, [rip + {before}]",
        "mov edx, {before_bytes}",
        "test r10d, r10d",
        "jz 8f",
        "lea rsi, [rip + {between}]",
        "mov edx, {between_bytes}",
        "8:",
        "mov edi, 2",
        "mov eax, 1",
        "syscall",
        "lea rsi, [r8 + {name}]",
        "mov edx, dword ptr [r8 + {name_len}]",
        "mov edi, 2",
        "mov eax, 1",
        "syscall",
        "inc r10d",
        "9:",
        "add r8, {feature_bytes}",
        "jmp 6b",
        "22:",
        "test r10d, r10d",
        "jz 23f",
        "lea rsi, [rip + {behind}]",
        "mov edx, {behind_bytes}",
        "mov edi, 2",
        "mov eax, 1",
        "syscall",
        "mov edi, 1",
        "mov eax, 231",
        "syscall",
        "23:",
        "add rsp, 16",
        "pop rbx",
        "ret",
        features = sym FEATURES,
        features_bytes = const size_of_val(&FEATURES),
        feature_bytes = const size_of::<Feature>(),
        is_built_in = const std::mem::offset_of!(Feature, is_built_in),
        word = const std::mem::offset_of!(Feature, word),
        bit = const std::mem::offset_of!(Feature, bit),
        name_len = const std::mem::offset_of!(Feature, name_len),
        name = const std::mem::offset_of!(Feature, name),
        before = sym BEFORE,
        before_bytes = const size_of_val(&BEFORE),
        between = sym BETWEEN,
        between_bytes = const size_of_val(&BETWEEN),
        behind = sym BEHIND,
        behind_bytes = const size_of_val(&BEHIND),
    )
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use std::arch::x86_64::{__cpuid, __cpuid_count};

    use super::*;

    /// Asks `$name` of the standard library, and of the table's word and bit.
    macro_rules! agree {
        ($words:expr, $($name:tt)*) => {
            [$((
                $name,
                FEATURES
                    .iter()
                    .find(|it| &it.name[..it.name_len as usize] == $name.as_bytes())
                    .map(|it| $words[it.word as usize] >> it.bit & 1 == 1),
                std::is_x86_feature_detected!($name),
            )),*]
        };
    }

    #[test]
    fn each_feature_is_where_the_table_looks_for_it() {
        let structured = __cpuid_count(7, 0);
        let words = [__cpuid(1).ecx, structured.ebx, structured.ecx, __cpuid(0x8000_0001).ecx];
        let seen = agree!(words, "sse3" "ssse3" "sse4.1" "sse4.2" "popcnt" "cmpxchg16b" "pclmulqdq" "aes" "avx" "f16c" "fma"
            "movbe" "bmi1" "avx2" "bmi2" "adx" "sha" "vaes" "vpclmulqdq" "lzcnt" "sse4a");
        assert_eq!(seen.len(), FEATURES.len());
        for (name, in_table, detected) in seen {
            assert_eq!(in_table, Some(detected), "{name}");
        }
    }

    #[test]
    fn the_generic_build_needs_nothing() {
        let built_in = FEATURES.iter().filter(|it| it.is_built_in == 1).count();
        assert_eq!(built_in == 0, !cfg!(target_feature = "sse3"), "{built_in}");
    }
}
