//! A task's declaration: the nine that are built in, and files of the same form.

use std::path::Path;

use common::Task;
use data::{Plane, Sequence};
use serde::de::DeserializeOwned;

use super::TasksError;
use crate::durable;

/// The tasks of the foundation model's paper (Jacob et al., JCMR 2025), in its order.
const BUILT_IN: [&str; 9] = [
    include_str!("../../tasks/sequence.toml"),
    include_str!("../../tasks/cine-view.toml"),
    include_str!("../../tasks/cine-sax-segmentation.toml"),
    include_str!("../../tasks/cine-lax-segmentation.toml"),
    include_str!("../../tasks/lge-sax-segmentation.toml"),
    include_str!("../../tasks/mapping-sax-segmentation.toml"),
    include_str!("../../tasks/landmarks.toml"),
    include_str!("../../tasks/lge-hyperenhancement.toml"),
    include_str!("../../tasks/cardiac-disease.toml"),
];

/// The built-in tasks.
///
/// # Panics
/// If one is not sound, which a test excludes.
pub fn built_in() -> Vec<Task> {
    BUILT_IN.iter().map(|text| toml::from_str(text).expect("a built-in task is sound")).collect()
}

/// A built-in task by name, or the one that a file declares.
pub fn read_task(named: &str) -> Result<Task, TasksError> {
    if named.ends_with(".toml") {
        let bytes = durable::read(Path::new(named))?;
        let unsound = |why: String| TasksError::Declaration { path: named.to_owned(), why };
        let task = toml::from_str(&String::from_utf8_lossy(&bytes)).map_err(|error| {
            // Ends with a line's end.
            unsound(format!("{error}correct it there; `site-agent tasks --declare {EXAMPLE}` prints a whole one"))
        })?;
        check(&task).map_err(|error| unsound(error.to_string()))?;
        return Ok(task);
    }
    let known = built_in();
    let names = || known.iter().map(|task| task.name.to_string()).collect::<Vec<_>>().join(", ");
    let unknown = TasksError::Unknown { name: named.to_owned(), known: names() };
    known.into_iter().find(|task| task.name.as_str() == named).ok_or(unknown)
}

/// A task that shows what a declaration holds.
const EXAMPLE: &str = "cine-sax-segmentation";

/// Holds a task to its bounds and its words to those that frames have.
pub(super) fn check(task: &Task) -> Result<(), TasksError> {
    task.check()?;
    sequences(task)?;
    planes(task)?;
    seen_in(task)?;
    Ok(())
}

/// The sequences that a task is shown; all, if it names none.
pub(super) fn sequences(task: &Task) -> Result<Vec<Sequence>, TasksError> {
    words(task, "input.sequences", &task.input.sequences, &Sequence::ALL, "cine, lge, t1-map and other")
}

/// The planes that a task is shown; all, if it names none.
pub(super) fn planes(task: &Task) -> Result<Vec<Plane>, TasksError> {
    words(task, "input.planes", &task.input.planes, &Plane::ALL, PLANES)
}

/// The planes in which each class is to be seen, by its place; all that the task is shown, if it does not say.
pub(super) fn seen_in(task: &Task) -> Result<Vec<Vec<Plane>>, TasksError> {
    let shown = planes(task)?;
    let of = |class| match task.seen_in.get(class) {
        Some(named) => words(task, "seen_in", named, &Plane::ALL, PLANES),
        None => Ok(shown.clone()),
    };
    task.classes.iter().map(of).collect()
}

const PLANES: &str = "sax, two-chamber, three-chamber, four-chamber, lvot and other";

fn words<T: DeserializeOwned + Copy>(
    task: &Task,
    key: &'static str,
    words: &[String],
    all: &[T],
    known: &'static str,
) -> Result<Vec<T>, TasksError> {
    if words.is_empty() {
        return Ok(all.to_vec());
    }
    let meant = |word: &String| {
        let unknown = || TasksError::Word { task: task.name.to_string(), key, word: word.clone(), known };
        serde_json::from_value(serde_json::Value::String(word.clone())).map_err(|_| unknown())
    };
    words.iter().map(meant).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_nine_tasks_are_sound_and_no_two_have_one_name() {
        let tasks = built_in();
        tasks.iter().for_each(|task| check(task).unwrap());
        assert_eq!(tasks.iter().map(|task| task.name.clone()).collect::<BTreeSet<_>>().len(), 9);
    }

    #[test]
    fn what_a_mirror_would_change_is_never_mirrored() {
        let mirrored = |task: &Task| task.augmentation.flip;
        let tasks = built_in();
        let of = |name: &str| mirrored(tasks.iter().find(|task| task.name.as_str() == name).unwrap());
        assert_eq!((of("cine-view"), of("landmarks")), (0.0, 0.0));
    }

    #[test]
    fn each_landmark_is_seen_in_its_planes_and_a_class_of_another_task_in_all_that_the_task_is_shown() {
        let tasks = built_in();
        let of = |name: &str| seen_in(tasks.iter().find(|task| task.name.as_str() == name).unwrap()).unwrap();
        let long = [Plane::TwoChamber, Plane::FourChamber];
        assert_eq!(of("landmarks"), [&[Plane::Sax][..], &[Plane::Sax], &long[1..], &long[1..], &long]);
        assert_eq!(of("cine-sax-segmentation"), vec![vec![Plane::Sax]; 3]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("marks.toml");
        std::fs::write(&path, BUILT_IN[6].replace("[\"four-chamber\"]", "[\"four chambers\"]")).unwrap();
        let refused = read_task(&path.display().to_string()).unwrap_err().to_string();
        assert!(refused.contains("seen_in holds \"four chambers\"") && refused.contains("lvot"), "{refused}");
    }

    #[test]
    fn a_task_file_that_lacks_a_key_is_refused_by_its_name_with_where_to_see_a_whole_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tenth.toml");
        let refused = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read_task(&path.display().to_string()).unwrap_err().to_string()
        };
        let lacking = refused(&BUILT_IN[2].replace("about", "# about"));
        for part in ["tenth.toml", "missing field `about`", "tasks --declare cine-sax-segmentation"] {
            assert!(lacking.contains(part), "{part:?} is missing from: {lacking}");
        }
        let outside = refused(&BUILT_IN[2].replace("scale = 2", "scale = 9"));
        assert!(outside.contains("tenth.toml") && outside.contains("input.scale is 9"), "{outside}");
        assert!(built_in().iter().any(|task| task.name.as_str() == EXAMPLE));
    }

    #[test]
    fn a_tenth_task_is_a_file_and_a_word_that_names_nothing_is_refused_with_those_that_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tenth.toml");
        let text = BUILT_IN[2].replace("cine-sax-segmentation", "tenth");
        std::fs::write(&path, &text).unwrap();
        assert_eq!(read_task(&path.display().to_string()).unwrap().name.as_str(), "tenth");
        std::fs::write(&path, text.replace("[\"sax\"]", "[\"short\"]")).unwrap();
        let refused = read_task(&path.display().to_string()).unwrap_err().to_string();
        assert!(refused.contains("input.planes holds \"short\"") && refused.contains("four-chamber"), "{refused}");
        std::fs::write(&path, text.replace("scale = 2", "skale = 2")).unwrap();
        assert!(read_task(&path.display().to_string()).unwrap_err().to_string().contains("skale"));
        assert!(read_task("segmentation").unwrap_err().to_string().contains("cine-view"));
    }
}
