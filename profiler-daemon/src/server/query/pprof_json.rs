//! A pprof in JSON, as the Connect protocol writes it: numbers of 64 bits are texts, what is zero or empty is left out.

use serde_json::{Map, Value};

use crate::pprof::{Profile, ValueType};

#[derive(Default)]
struct Object(Map<String, Value>);

impl Object {
    fn number(mut self, name: &str, number: impl Into<i128>) -> Self {
        let number: i128 = number.into();
        if number != 0 {
            self.0.insert(name.to_owned(), number.to_string().into());
        }
        self
    }

    fn list<T>(mut self, name: &str, all: &[T], value: impl Fn(&T) -> Value) -> Self {
        if !all.is_empty() {
            self.0.insert(name.to_owned(), all.iter().map(value).collect());
        }
        self
    }

    fn value(self) -> Value {
        Value::Object(self.0)
    }
}

fn text(number: &impl ToString) -> Value {
    number.to_string().into()
}

fn kind(kind: &ValueType) -> Value {
    Object::default().number("type", kind.r#type).number("unit", kind.unit).value()
}

/// What is in merged profiles of it.
pub(super) fn value(profile: &Profile) -> Value {
    let mut whole = Object::default()
        .list("sampleType", &profile.sample_type, kind)
        .list("sample", &profile.sample, |sample| {
            let ids = Object::default().list("locationId", &sample.location_id, text);
            ids.list("value", &sample.value, text).value()
        })
        .list("mapping", &profile.mapping, |mapping| {
            let mut object = Object::default().number("id", mapping.id).number("filename", mapping.filename);
            if mapping.has_functions {
                object.0.insert("hasFunctions".to_owned(), true.into());
            }
            object.value()
        })
        .list("location", &profile.location, |location| {
            let object = Object::default().number("id", location.id).number("mappingId", location.mapping_id);
            let lines = object.number("address", location.address).list("line", &location.line, |line| {
                Object::default().number("functionId", line.function_id).number("line", line.line).value()
            });
            lines.value()
        })
        .list("function", &profile.function, |function| {
            let object = Object::default().number("id", function.id).number("name", function.name);
            object.number("filename", function.filename).number("startLine", function.start_line).value()
        })
        .list("stringTable", &profile.string_table, |text| text.as_str().into())
        .number("timeNanos", profile.time_nanos)
        .number("durationNanos", profile.duration_nanos);
    if let Some(period) = &profile.period_type {
        whole.0.insert("periodType".to_owned(), kind(period));
    }
    whole.number("period", profile.period).number("defaultSampleType", profile.default_sample_type).value()
}
