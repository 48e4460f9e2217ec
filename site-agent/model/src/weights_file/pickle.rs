//! Pickles of protocol 2, as `torch.save` writes them, read into plain values.
//!
//! A pickle is a program for a stack machine, and Python's own machine imports and calls what the program names. This one
//! cannot: of a function or a class it knows the name alone. Four names mean something (an ordered dict, a storage, a
//! tensor, a parameter); whatever another one would have made is an [`Value::Object`], of which nothing else is known.
//!
//! Values are numbered, because a pickle may recall one while it is still being filled, and may put it into itself.

use std::collections::HashMap;
use std::rc::Rc;

use super::element::Element;

/// Bytes in a pickle. Numbers lie beside it: that of a ViT-S with its optimizer has some 100 kB.
const MAX_BYTES: usize = 16 << 20;
/// Instructions in a pickle, and so values: a tensor takes some 35.
const MAX_INSTRUCTIONS: usize = 1 << 20;
/// Values that are being made while another one is, as nested tuples and dicts are.
const MAX_DEPTH: usize = 1000;
/// Bytes in one text.
const MAX_TEXT: usize = 1 << 20;
/// Bytes in the name of a module, a class or a function.
const MAX_NAME: usize = 256;
/// The largest number under which a value is kept to be recalled.
const MAX_MEMO: usize = MAX_INSTRUCTIONS;
/// Axes of a tensor.
const MAX_AXES: usize = 8;

const ORDERED_DICT: &str = "collections.OrderedDict";
const TENSOR: &str = "torch._utils._rebuild_tensor_v2";
const PARAMETER: &str = "torch._utils._rebuild_parameter";

/// Why a pickle cannot be read. Places are byte offsets of instructions.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum PickleError {
    /// It ends too early.
    #[error("it ends within the instruction at byte {at}")]
    Cut {
        /// The instruction.
        at: usize,
    },
    /// An instruction that torch.save does not write.
    #[error("the instruction {code:#04x} at byte {at} is none of those that torch.save writes")]
    Instruction {
        /// The instruction.
        code: u8,
        /// Where it is.
        at: usize,
    },
    /// Another protocol.
    #[error("it has protocol {found}, and only protocol 2 is read, which torch.save writes unless told otherwise")]
    Protocol {
        /// The protocol.
        found: u8,
    },
    /// Too much of something.
    #[error("{what} at byte {at}: {found}, and at most {bound} are read")]
    Bound {
        /// What there is too much of.
        what: &'static str,
        /// The instruction.
        at: usize,
        /// How much there is, at least.
        found: usize,
        /// How much is read.
        bound: usize,
    },
    /// More was taken than was there.
    #[error("the instruction at byte {at} takes a value where there is none")]
    Empty {
        /// The instruction.
        at: usize,
    },
    /// A value that was never kept.
    #[error("the instruction at byte {at} recalls value {index}, which was not kept before")]
    Unkept {
        /// The instruction.
        at: usize,
        /// The value's number.
        index: usize,
    },
    /// Arguments of which no tensor, parameter or dict can be made.
    #[error("what {made} is made of at byte {at} is not what torch.save writes")]
    Arguments {
        /// What was to be made.
        made: &'static str,
        /// The instruction.
        at: usize,
    },
}

/// The number of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Id(usize);

/// What a pickle can hold.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// None, a truth value, a float, a huge integer or a list: no tensor is made of it or found in it.
    Plain,
    Int(i64),
    Text(Rc<str>),
    Tuple(Vec<Id>),
    /// In the order of the file, which may repeat a key.
    Dict(Vec<(Id, Id)>),
    /// A class or a function.
    Global(Rc<str>),
    /// What another class or function would have made, by the name of that.
    Object(Rc<str>),
    Storage(Storage),
    Tensor(Strided),
}

/// Values in a file of their own.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Storage {
    /// The file's name, under `data/`.
    pub(super) key: Rc<str>,
    /// None if they are no floats.
    pub(super) element: Option<Element>,
}

/// Some values of a storage, in some order.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Strided {
    pub(super) storage: Storage,
    /// The place of the first value.
    pub(super) start: usize,
    /// Each axis's size and stride, counted in values.
    pub(super) axes: Vec<(usize, usize)>,
}

/// The values of a pickle.
#[derive(Debug)]
pub(super) struct Pickled {
    values: Vec<Value>,
    top: Id,
}

impl Pickled {
    /// The value that was pickled.
    pub(super) fn top(&self) -> &Value {
        self.value(self.top)
    }

    /// A value that another one holds.
    pub(super) fn value(&self, Id(index): Id) -> &Value {
        &self.values[index]
    }
}

/// Reads a pickle up to its end; what may come after that is not looked at.
pub(super) fn read(bytes: &[u8]) -> Result<Pickled, PickleError> {
    if bytes.len() > MAX_BYTES {
        return Err(PickleError::Bound { what: "bytes of the pickle", at: 0, found: bytes.len(), bound: MAX_BYTES });
    }
    let mut machine = Machine { bytes, ..Machine::default() };
    for _ in 0..MAX_INSTRUCTIONS {
        machine.instruction = machine.next;
        match machine.byte()? {
            b'.' => return Ok(Pickled { top: machine.pop()?, values: machine.values }),
            code => machine.execute(code)?,
        }
    }
    Err(machine.bound("instructions", MAX_INSTRUCTIONS + 1, MAX_INSTRUCTIONS))
}

#[derive(Default)]
struct Machine<'a> {
    bytes: &'a [u8],
    /// Where the instruction at hand begins.
    instruction: usize,
    /// The next byte to read.
    next: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack at its marks.
    marks: Vec<usize>,
    memo: HashMap<usize, Id>,
}

impl<'a> Machine<'a> {
    /// The instructions, by their names in Python's `pickletools`.
    fn execute(&mut self, code: u8) -> Result<(), PickleError> {
        match code {
            0x80 => self.protocol()?,                             // PROTO
            b'(' => self.mark()?,                                 // MARK
            b'0' => self.discard()?,                              // POP
            b'1' => drop(self.pop_to_mark()?),                    // POP_MARK
            b'N' | 0x88 | 0x89 | b']' => self.push(Value::Plain), // NONE, NEWTRUE, NEWFALSE, EMPTY_LIST
            b'G' => {
                self.take(8)?; // BINFLOAT
                self.push(Value::Plain);
            }
            b'J' => {
                let value = self.word().map(i32::from_le_bytes)?; // BININT
                self.push(Value::Int(value.into()));
            }
            b'K' | b'M' => {
                let value = self.count(if code == b'K' { 1 } else { 2 })?; // BININT1, BININT2
                self.push(Value::Int(value as i64));
            }
            0x8a | 0x8b => self.long(if code == 0x8a { 1 } else { 4 })?, // LONG1, LONG4
            b'X' => {
                let text = self.text()?; // BINUNICODE
                self.push(Value::Text(text));
            }
            b'c' => {
                let name = format!("{}.{}", self.line()?, self.line()?); // GLOBAL
                self.push(Value::Global(name.into()));
            }
            b'}' => self.push(Value::Dict(Vec::new())),  // EMPTY_DICT
            b')' => self.push(Value::Tuple(Vec::new())), // EMPTY_TUPLE
            0x85..=0x87 => {
                let items = (0x84..code).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?; // TUPLE1 to TUPLE3
                self.push(Value::Tuple(items.into_iter().rev().collect()));
            }
            b't' => {
                let items = self.pop_to_mark()?; // TUPLE
                self.push(Value::Tuple(items));
            }
            b'a' => self.discard()?,           // APPEND
            b'e' => drop(self.pop_to_mark()?), // APPENDS
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?); // SETITEM
                self.fill(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?; // SETITEMS
                self.fill(&items)?;
            }
            b'q' | b'r' => {
                let index = self.count(if code == b'q' { 1 } else { 4 })?; // BINPUT, LONG_BINPUT
                self.keep(index)?;
            }
            b'h' | b'j' => {
                let index = self.count(if code == b'h' { 1 } else { 4 })?; // BINGET, LONG_BINGET
                self.recall(index)?;
            }
            b'Q' => self.storage()?, // BINPERSID
            b'R' => self.reduce()?,  // REDUCE
            0x81 => self.object()?,  // NEWOBJ
            b'b' => self.discard()?, // BUILD: an object's attributes, of which none is a tensor of a state
            _ => return Err(PickleError::Instruction { code, at: self.instruction }),
        }
        Ok(())
    }

    fn protocol(&mut self) -> Result<(), PickleError> {
        match self.byte()? {
            2 => Ok(()),
            found => Err(PickleError::Protocol { found }),
        }
    }

    fn mark(&mut self) -> Result<(), PickleError> {
        if self.marks.len() == MAX_DEPTH {
            return Err(self.bound("nested values", MAX_DEPTH + 1, MAX_DEPTH));
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    /// An integer of any size, of which eight bytes are kept: what needs more is no size of a tensor.
    fn long(&mut self, width: usize) -> Result<(), PickleError> {
        let length = self.count(width)?;
        let bytes = self.take(length)?;
        let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
        let mut word = [if negative { 0xff } else { 0 }; 8];
        let value = word.get_mut(..length).map(|low| low.copy_from_slice(bytes));
        self.push(value.map_or(Value::Plain, |()| Value::Int(i64::from_le_bytes(word))));
        Ok(())
    }

    fn text(&mut self) -> Result<Rc<str>, PickleError> {
        let length = self.count(4)?;
        if length > MAX_TEXT {
            return Err(self.bound("bytes of a text", length, MAX_TEXT));
        }
        // Python writes lone surrogates, which are no UTF-8, as in the bytes of a number of numpy's.
        Ok(String::from_utf8_lossy(self.take(length)?).into())
    }

    /// Half of a global's name.
    fn line(&mut self) -> Result<String, PickleError> {
        let rest = &self.bytes[self.next..];
        let Some(length) = rest.iter().take(MAX_NAME + 1).position(|&byte| byte == b'\n') else {
            let cut = PickleError::Cut { at: self.instruction };
            return Err(if rest.len() <= MAX_NAME {
                cut
            } else {
                self.bound("bytes of a name", MAX_NAME + 1, MAX_NAME)
            });
        };
        self.next += length + 1;
        Ok(String::from_utf8_lossy(&rest[..length]).into_owned())
    }

    /// Puts keys and values, in turn, into the dict on top of the stack. What an object would keep is not kept.
    fn fill(&mut self, items: &[Id]) -> Result<(), PickleError> {
        let (pairs, odd) = items.as_chunks::<2>();
        let Id(target) = self.peek()?;
        match &mut self.values[target] {
            Value::Dict(_) if !odd.is_empty() => return Err(self.arguments("a dict")),
            Value::Dict(entries) => entries.extend(pairs.iter().map(|&[key, value]| (key, value))),
            _ => {}
        }
        Ok(())
    }

    fn keep(&mut self, index: usize) -> Result<(), PickleError> {
        if index > MAX_MEMO {
            return Err(self.bound("the number of a kept value", index, MAX_MEMO));
        }
        let value = self.peek()?;
        self.memo.insert(index, value);
        Ok(())
    }

    fn recall(&mut self, index: usize) -> Result<(), PickleError> {
        let value = self.memo.get(&index).ok_or(PickleError::Unkept { at: self.instruction, index })?;
        self.stack.push(*value);
        Ok(())
    }

    /// A persistent id: `("storage", type, key, device, count)`.
    fn storage(&mut self) -> Result<(), PickleError> {
        let id = self.pop()?;
        let storage = match self.tuple(id) {
            Some(&[kind, element, key, ..]) => match (self.value(kind), self.value(element), self.value(key)) {
                (Value::Text(kind), Value::Global(element), Value::Text(key)) if **kind == *"storage" => {
                    Some(Storage { key: Rc::clone(key), element: element_of(element) })
                }
                _ => None,
            },
            _ => None,
        };
        self.push(Value::Storage(storage.ok_or_else(|| self.arguments("a storage"))?));
        Ok(())
    }

    /// What a function of these arguments gives: known for three functions.
    fn reduce(&mut self) -> Result<(), PickleError> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        let name = self.name(callable);
        let tuple = self.tuple(arguments);
        match &*name {
            ORDERED_DICT if tuple == Some(&[]) => self.push(Value::Dict(Vec::new())),
            TENSOR => {
                let tensor = tuple.and_then(|tuple| self.strided(tuple));
                self.push(Value::Tensor(tensor.ok_or_else(|| self.arguments("a tensor"))?));
            }
            PARAMETER => {
                let data = tuple.and_then(|tuple| tuple.first().copied());
                self.stack.push(data.ok_or_else(|| self.arguments("a parameter"))?);
            }
            _ => self.push(Value::Object(name)),
        }
        Ok(())
    }

    fn object(&mut self) -> Result<(), PickleError> {
        let (_, class) = (self.pop()?, self.pop()?);
        let name = self.name(class);
        self.push(Value::Object(name));
        Ok(())
    }

    /// `(storage, offset, size, stride, ...)`.
    fn strided(&self, tuple: &[Id]) -> Option<Strided> {
        let &[storage, start, sizes, strides, ..] = tuple else { return None };
        let Value::Storage(storage) = self.value(storage) else { return None };
        let (sizes, strides) = (self.tuple(sizes)?, self.tuple(strides)?);
        if sizes.len() != strides.len() || sizes.len() > MAX_AXES {
            return None;
        }
        let axes = sizes.iter().zip(strides).map(|(&size, &stride)| Some((self.extent(size)?, self.extent(stride)?)));
        Some(Strided { storage: storage.clone(), start: self.extent(start)?, axes: axes.collect::<Option<_>>()? })
    }

    fn extent(&self, id: Id) -> Option<usize> {
        match self.value(id) {
            Value::Int(value) => usize::try_from(*value).ok(),
            _ => None,
        }
    }

    fn tuple(&self, id: Id) -> Option<&[Id]> {
        match self.value(id) {
            Value::Tuple(items) => Some(items),
            _ => None,
        }
    }

    fn name(&self, id: Id) -> Rc<str> {
        match self.value(id) {
            Value::Global(name) | Value::Object(name) => Rc::clone(name),
            _ => "a nameless class".into(),
        }
    }

    fn value(&self, Id(index): Id) -> &Value {
        &self.values[index]
    }

    fn push(&mut self, value: Value) {
        self.stack.push(Id(self.values.len()));
        self.values.push(value);
    }

    fn peek(&self) -> Result<Id, PickleError> {
        let above = self.stack.get(self.marks.last().copied().unwrap_or(0)..);
        above.and_then(<[Id]>::last).copied().ok_or(PickleError::Empty { at: self.instruction })
    }

    fn pop(&mut self) -> Result<Id, PickleError> {
        let top = self.peek()?;
        self.stack.pop();
        Ok(top)
    }

    fn discard(&mut self) -> Result<(), PickleError> {
        self.pop().map(|_| ())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, PickleError> {
        let mark = self.marks.pop().ok_or(PickleError::Empty { at: self.instruction })?;
        Ok(self.stack.split_off(mark))
    }

    fn byte(&mut self) -> Result<u8, PickleError> {
        self.word().map(|[byte]| byte)
    }

    fn word<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let at = self.instruction;
        self.take(N)?.first_chunk().copied().ok_or(PickleError::Cut { at })
    }

    /// An unsigned integer of 1, 2 or 4 bytes.
    fn count(&mut self, width: usize) -> Result<usize, PickleError> {
        Ok(self.take(width)?.iter().rev().fold(0, |value, &byte| value << 8 | usize::from(byte)))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], PickleError> {
        let end = self.next.checked_add(length);
        let taken = end.and_then(|end| self.bytes.get(self.next..end));
        let taken = taken.ok_or(PickleError::Cut { at: self.instruction })?;
        self.next += length;
        Ok(taken)
    }

    fn bound(&self, what: &'static str, found: usize, bound: usize) -> PickleError {
        PickleError::Bound { what, at: self.instruction, found, bound }
    }

    fn arguments(&self, made: &'static str) -> PickleError {
        PickleError::Arguments { made, at: self.instruction }
    }
}

/// The floats of a storage's class, such as `torch.FloatStorage`; none if it has other values.
fn element_of(class: &str) -> Option<Element> {
    let class = class.strip_prefix("torch.")?;
    match class.strip_prefix("cuda.").unwrap_or(class) {
        "HalfStorage" => Some(Element::F16),
        "BFloat16Storage" => Some(Element::Bf16),
        "FloatStorage" => Some(Element::F32),
        "DoubleStorage" => Some(Element::F64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn top(program: &[u8]) -> Value {
        read(program).unwrap().top().clone()
    }

    fn refusal(program: &[u8]) -> String {
        read(program).unwrap_err().to_string()
    }

    #[test]
    fn a_function_that_a_pickle_calls_is_never_more_than_a_name() {
        assert_eq!(top(b"\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R."), Value::Object("os.system".into()));
        assert_eq!(
            top(b"\x80\x02cargparse\nNamespace\n)\x81}X\x01\0\0\0aK\x01sb."),
            Value::Object("argparse.Namespace".into())
        );
        assert_eq!(top(b"\x80\x02cos\nsystem\n)R)R."), Value::Object("os.system".into()));
    }

    #[test]
    fn integers_of_every_width_have_their_value() {
        for (program, value) in [
            (&b"K\xff."[..], 255),
            (b"M\x01\x02.", 513),
            (b"J\xff\xff\xff\xff.", -1),
            (b"\x8a\x00.", 0),
            (b"\x8a\x02\x00\x80.", -32768),
            (b"\x8b\x05\0\0\0\0\0\0\0\x01.", 1 << 32),
        ] {
            assert_eq!(top(program), Value::Int(value), "{program:x?}");
        }
        assert_eq!(top(b"\x8a\x09\0\0\0\0\0\0\0\0\x01."), Value::Plain);
    }

    #[test]
    fn a_dict_that_is_recalled_holds_what_was_put_into_it_later() {
        // d = {}; d[1] = d; d[2] = (d, None)
        let pickled = read(b"\x80\x02}q\x00(K\x01h\x00K\x02h\x00N\x86u.").unwrap();
        let Value::Dict(entries) = pickled.top() else { panic!("{pickled:?}") };
        assert_eq!(entries.len(), 2);
        assert_eq!(pickled.value(entries[0].1), pickled.top());
        assert!(matches!(pickled.value(entries[1].1), Value::Tuple(items) if items.len() == 2));
    }

    #[test]
    fn a_program_that_torch_save_does_not_write_is_refused_with_its_place() {
        assert_eq!(refusal(b"\x80\x04."), PickleError::Protocol { found: 4 }.to_string());
        assert!(refusal(b"\x80\x02N\x93.").contains("instruction 0x93 at byte 3"));
        assert!(refusal(b"\x80\x02h\x07.").contains("byte 2 recalls value 7"));
        for program in [&b"."[..], b"N(.", b"Nt.", b"Ks", b"\x86.", b"(0.", b"s."] {
            assert!(read(program).is_err(), "{program:x?}");
        }
        for program in [&b""[..], b"\x80", b"X\x05\0\0\0abc.", b"ctorch\nFloat", b"G\0.", b"\x8b\xff\xff\xff\xff."] {
            assert!(matches!(read(program), Err(PickleError::Cut { .. })), "{program:x?}");
        }
        assert!(refusal(b"}(K\x01u.").contains("what a dict is made of at byte 4"));
        assert!(refusal(b"ctorch._utils\n_rebuild_tensor_v2\n)R.").contains("what a tensor is made of"));
        assert!(refusal(b")Q.").contains("what a storage is made of at byte 1"));
    }

    #[test]
    fn a_pickle_that_asks_for_too_much_is_refused_with_the_bound() {
        assert!(
            refusal(&[&b"X\x01\0\x10\0"[..], &[b'a'; (1 << 20) + 2]].concat()).contains("1048577, and at most 1048576")
        );
        assert!(refusal(&[&b"c"[..], &[b'a'; 300]].concat()).contains("bytes of a name at byte 0: 257"));
        assert!(refusal(&[b'('; 1001]).contains("nested values at byte 1000: 1001, and at most 1000"));
        assert!(refusal(&[b'N'; (1 << 20) + 1]).contains("instructions at byte"));
        assert!(refusal(b"Nr\xff\xff\xff\x7f.").contains("kept value at byte 1: 2147483647, and at most 1048576"));
        assert!(refusal(&vec![b'N'; MAX_BYTES + 1]).contains("bytes of the pickle"));
    }
}
