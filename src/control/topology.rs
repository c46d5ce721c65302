//! In which order CPUs are given to cores: each physical core once before any gets a second thread, one NUMA node after the other.
//!
//! Two threads of one physical core share its execution units, so fewer cores than CPUs go to different ones. A shard's state, log and
//! buffers are touched first, and so placed in memory, by the thread that will use them; with neighbours on one node, what cores
//! hand over once per client stays on it. Not here: which CPUs this process may use.

#![forbid(unsafe_code)]

/// Sorts the CPUs that may be used. `read` gives a file's text under `/sys/devices/system`, `None` where there is none: without
/// answers the order stays as it is by number.
pub fn order(mut cpus: Vec<usize>, read: impl Fn(&str) -> Option<String>) -> Vec<usize> {
    let list = |path: &str| read(path).map(|it| parse_list(&it)).unwrap_or_default();
    let nodes: Vec<(usize, Vec<usize>)> =
        list("node/online").into_iter().map(|node| (node, list(&format!("node/node{node}/cpulist")))).collect();
    let key = |cpu: usize| {
        let siblings = list(&format!("cpu/cpu{cpu}/topology/thread_siblings_list"));
        // Only those that may be used count: a sibling that belongs to another container takes no place here.
        let rank = siblings.iter().filter(|it| **it < cpu && cpus.contains(it)).count();
        let node = nodes.iter().find(|it| it.1.contains(&cpu)).map_or(0, |it| it.0);
        (rank, node, cpu)
    };
    let mut keyed: Vec<_> = cpus.iter().map(|it| key(*it)).collect();
    keyed.sort_unstable();
    cpus.clear();
    cpus.extend(keyed.into_iter().map(|it| it.2));
    cpus
}

/// The kernel's lists: `0-3,8,10-11`. What is no number is left out.
///
/// Source: Linux, Documentation/admin-guide/cputopology.rst.
fn parse_list(text: &str) -> Vec<usize> {
    /// No machine has more; a broken file must not fill the memory.
    const CPU_MAX: usize = 1 << 16;
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse::<usize>().ok()?..=last.trim().parse::<usize>().ok()?.min(CPU_MAX))
    };
    text.split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_the_kernel_are_read() {
        assert_eq!(parse_list("0-3,8,10-11\n"), [0, 1, 2, 3, 8, 10, 11]);
        assert_eq!(parse_list("\n"), [0usize; 0]);
        assert_eq!(parse_list("x,4-,2"), [2]);
    }

    /// Two sockets of two cores with two threads each, numbered as Linux does: first threads, then second ones.
    fn two_sockets(path: &str) -> Option<String> {
        Some(match path {
            "node/online" => "0-1".into(),
            "node/node0/cpulist" => "0,2,4,6".into(),
            "node/node1/cpulist" => "1,3,5,7".into(),
            _ => {
                let cpu: usize = path.strip_prefix("cpu/cpu")?.split('/').next()?.parse().ok()?;
                format!("{},{}", cpu % 4, cpu % 4 + 4)
            }
        })
    }

    #[test]
    fn physical_cores_come_first_and_one_node_after_the_other() {
        assert_eq!(order((0..8).collect(), two_sockets), [0, 2, 1, 3, 4, 6, 5, 7]);
    }

    #[test]
    fn a_sibling_that_may_not_be_used_takes_no_place() {
        assert_eq!(order(vec![4, 5, 1], two_sockets), [4, 1, 5]);
    }

    #[test]
    fn without_answers_the_numbers_decide() {
        assert_eq!(order(vec![3, 0, 2], |_| None), [0, 2, 3]);
    }
}
