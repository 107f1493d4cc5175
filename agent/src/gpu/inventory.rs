//! The GPUs of this machine as they were last seen.

/// What is known of this machine's GPUs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Inventory {
    /// Empty without a driver.
    pub(crate) driver_version: String,
    /// The newest CUDA that the driver serves, as in `12.4`; empty without a driver.
    pub(crate) cuda_version: String,
    /// All that were ever seen, by index.
    pub(crate) gpus: Vec<Gpu>,
    /// What is wrong with the driver as a whole.
    pub(crate) problem: Option<String>,
}

/// One physical GPU.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Gpu {
    /// The driver's number for it when it was first seen; it stays the same while the agent runs.
    pub(crate) index: u32,
    /// `GPU-…`; empty when it could never be read.
    pub(crate) uuid: String,
    /// As in `NVIDIA H100 80GB HBM3`.
    pub(crate) name: String,
    pub(crate) memory_bytes: u64,
    /// As in `9.0`.
    pub(crate) compute_capability: String,
    pub(crate) pci_bus_id: String,
    /// As last read.
    pub(crate) stats: Stats,
    /// Why it takes no replicas.
    pub(crate) problem: Option<String>,
    /// With this problem nothing goes on that runs there. One that was not read yet, that the driver is slow to speak
    /// of, or that is only to be drained may serve on.
    pub(crate) is_lost: bool,
}

/// What a GPU does.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Stats {
    /// 0 to 100.
    pub(crate) utilization_percent: f32,
    /// By anybody.
    pub(crate) memory_used_bytes: u64,
    /// By processes that belong to none of this node's replicas.
    pub(crate) memory_used_by_others_bytes: u64,
    pub(crate) temperature_celsius: f32,
    pub(crate) power_watts: f32,
}

impl Inventory {
    /// The GPUs that take replicas.
    pub(crate) fn usable(&self) -> impl Iterator<Item = &Gpu> {
        self.gpus.iter().filter(|gpu| gpu.problem.is_none())
    }

    /// The UUIDs of GPUs.
    ///
    /// # Errors
    /// One line that begins with `gpu:` and names the GPU that is missing or cannot be used.
    pub(crate) fn resolve(&self, indices: &[u32]) -> Result<Vec<String>, String> {
        indices.iter().map(|index| self.find(*index).map(|gpu| gpu.uuid.clone())).collect()
    }

    /// One line for each thing that is wrong.
    pub(crate) fn issues(&self) -> Vec<String> {
        let of_gpu = |gpu: &Gpu| gpu.problem.as_ref().map(|problem| format!("{}: {problem}", gpu.label()));
        self.problem.iter().cloned().chain(self.gpus.iter().filter_map(of_gpu)).collect()
    }

    /// The same, as if every GPU did nothing.
    pub(crate) fn without_stats(&self) -> Self {
        let idle = |gpu: &Gpu| Gpu { stats: Stats::default(), ..gpu.clone() };
        Self { gpus: self.gpus.iter().map(idle).collect(), ..self.clone() }
    }

    fn find(&self, index: u32) -> Result<&Gpu, String> {
        match self.gpus.iter().find(|gpu| gpu.index == index) {
            None => Err(format!("gpu: this node has no GPU {index}; {}", self.which())),
            Some(gpu @ Gpu { problem: Some(problem), .. }) => Err(format!("gpu: {}: {problem}", gpu.label())),
            Some(gpu) => Ok(gpu),
        }
    }

    fn which(&self) -> String {
        match self.gpus.as_slice() {
            [] => "it has none".to_owned(),
            [only] => format!("it has only GPU {}", only.index),
            [first, .., last] => format!("it has {} to {}", first.index, last.index),
        }
    }
}

impl Gpu {
    /// `gpu 3 (GPU-…)`.
    pub(crate) fn label(&self) -> String {
        if self.uuid.is_empty() {
            return format!("gpu {}", self.index);
        }
        format!("gpu {} ({})", self.index, self.uuid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inventory(count: u32) -> Inventory {
        let gpu = |index| Gpu { index, uuid: format!("GPU-{index}"), ..Gpu::default() };
        Inventory { gpus: (0..count).map(gpu).collect(), ..Inventory::default() }
    }

    #[test]
    fn indices_become_uuids_or_an_error_that_names_the_gpu() {
        let mut two = inventory(2);
        assert_eq!(two.resolve(&[]), Ok(Vec::new()));
        assert_eq!(two.resolve(&[1, 0]), Ok(vec!["GPU-1".to_owned(), "GPU-0".to_owned()]));
        for (count, says) in [(0, "it has none"), (1, "it has only GPU 0"), (2, "it has 0 to 1")] {
            let error = inventory(count).resolve(&[0, 3]).expect_err("no such GPU");
            let missing = if count == 0 { 0 } else { 3 };
            assert_eq!(error, format!("gpu: this node has no GPU {missing}; {says}"));
        }
        two.gpus[1].problem = Some("fell off the bus".to_owned());
        assert_eq!(two.resolve(&[0]), Ok(vec!["GPU-0".to_owned()]));
        assert_eq!(two.resolve(&[0, 1]), Err("gpu: gpu 1 (GPU-1): fell off the bus".to_owned()));
        assert_eq!(two.issues(), ["gpu 1 (GPU-1): fell off the bus"]);
        assert_eq!(two.usable().count(), 1);
    }
}
