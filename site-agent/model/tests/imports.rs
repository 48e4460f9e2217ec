//! Whatever the bytes of a file are that a first model is made from: it is read or refused (`fuzz/imports.rs`).

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

#[path = "../../../fuzz/imports.rs"]
mod imports;
#[path = "../../../fuzz/spoil.rs"]
mod spoil;

/// What torch.save and safetensors write; `scripts/interchange.py fixture` made them.
const FILES: [&[u8]; 3] = [
    include_bytes!("fixtures/layouts.pth"),
    include_bytes!("fixtures/dino_tiny.pth"),
    include_bytes!("fixtures/timm_tiny.safetensors"),
];

#[test]
fn files_of_the_right_kind_are_taken() {
    for file in FILES {
        let tensors = model::weights_file::read(file).unwrap();
        assert!(tensors.iter().any(|(_, tensor)| tensor.values.iter().any(|value| *value != 0.0)), "numbers were read");
        imports::import(file);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    // Where names, shapes and places are: before the first kilobytes of numbers, and at the end.
    #[test]
    fn files_that_were_right_and_are_spoilt_are_read_or_refused(
        file in select(FILES.to_vec()),
        changes in vec((any::<Index>(), any::<bool>(), any::<u8>()), 0..5),
        cut in proptest::option::weighted(0.2, any::<Index>()),
        twice in proptest::option::weighted(0.2, (any::<Index>(), any::<Index>())),
    ) {
        let mut bytes = file.to_vec();
        for (place, at_the_end, byte) in changes {
            let place = place.index(bytes.len().min(4096));
            let place = if at_the_end { bytes.len() - 1 - place } else { place };
            bytes[place] = byte;
        }
        spoil::repeat_and_cut(&mut bytes, twice, cut);
        imports::import(&bytes);
    }
}
