//! The CBOR form of SenML (RFC 8428 section 6), over untrusted bytes.

use minicbor::data::Type;
use minicbor::{Decoder, Encoder};

use super::{
    Content, Field, MAX_CBOR_BYTES, MAX_FIELDS, MAX_RECORDS, Pack, Record, SenmlError, finite,
};

pub(super) fn parse(bytes: &[u8]) -> Result<Pack, SenmlError> {
    if bytes.len() > MAX_CBOR_BYTES {
        return Err(SenmlError::TooLong);
    }
    let mut decoder = Decoder::new(bytes);
    let count = decoder.array().map_err(|_| malformed("expected an array"))?;
    let count = count.ok_or(malformed("indefinite length"))?;
    if count > MAX_RECORDS as u64 {
        return Err(SenmlError::TooManyRecords);
    }
    let mut records = Vec::new();
    for _ in 0..count {
        records.push(record(&mut decoder)?);
    }
    if decoder.position() != bytes.len() {
        return Err(SenmlError::Trailing);
    }
    if records.is_empty() {
        return Err(SenmlError::Empty);
    }
    Ok(Pack(records))
}

fn record(decoder: &mut Decoder<'_>) -> Result<Record, SenmlError> {
    let count = decoder.map().map_err(|_| malformed("expected a map"))?;
    let count = count.ok_or(malformed("indefinite length"))?;
    if count > MAX_FIELDS as u64 {
        return Err(SenmlError::TooManyFields);
    }
    let mut record = Record::default();
    let mut unknown: Vec<Label> = Vec::new();
    for _ in 0..count {
        match label(decoder)? {
            Ok(field) => {
                let content = content(decoder)?;
                record.set(field, content)?;
            }
            Err(label) => {
                if unknown.contains(&label) {
                    return Err(SenmlError::DuplicateField);
                }
                unknown.push(label);
                skip(decoder, 0)?;
            }
        }
    }
    Ok(record)
}

#[derive(PartialEq)]
enum Label {
    Number(i64),
    Text(String),
}

/// A label: an integer of table 4, or the string that an unregistered field uses.
fn label(decoder: &mut Decoder<'_>) -> Result<Result<Field, Label>, SenmlError> {
    match decoder.datatype().map_err(|_| malformed("truncated"))? {
        Type::String => {
            let text = decoder.str().map_err(|_| malformed("label"))?;
            if text.ends_with('_') {
                return Err(SenmlError::MustUnderstand);
            }
            // Section 6: registered fields use their integer, so `"n"` is not the name.
            if Field::by_label(text).is_some() {
                return Err(malformed("registered label as a string"));
            }
            Ok(Err(Label::Text(text.to_owned())))
        }
        _ => {
            let number = decoder.i64().map_err(|_| malformed("label"))?;
            Ok(Field::by_number(number).ok_or(Label::Number(number)))
        }
    }
}

fn content(decoder: &mut Decoder<'_>) -> Result<Content, SenmlError> {
    let truncated = |_| malformed("truncated");
    Ok(match decoder.datatype().map_err(truncated)? {
        Type::Bool => Content::Boolean(decoder.bool().map_err(truncated)?),
        Type::Bytes => Content::Data(decoder.bytes().map_err(truncated)?.to_vec()),
        Type::String => Content::Text(decoder.str().map_err(truncated)?.to_owned()),
        _ => Content::Number(number(decoder)?),
    })
}

/// Section 6: integers, floats, and decimal fractions (tag 4) are numbers.
fn number(decoder: &mut Decoder<'_>) -> Result<f64, SenmlError> {
    let bad = |_| malformed("number");
    let at = decoder.position();
    let number = match decoder.datatype().map_err(bad)? {
        Type::F16 => {
            let bits = decoder.input().get(at + 1..at + 3).ok_or(malformed("truncated"))?;
            decoder.set_position(at + 3);
            half_to_f64(u16::from_be_bytes([bits[0], bits[1]]))
        }
        Type::F32 => f64::from(decoder.f32().map_err(bad)?),
        Type::F64 => decoder.f64().map_err(bad)?,
        Type::Tag => {
            let tag = decoder.tag().map_err(bad)?;
            let decimal_fraction = tag.as_u64() == 4;
            if !decimal_fraction || decoder.array().map_err(bad)? != Some(2) {
                return Err(malformed("tag"));
            }
            let exponent = decoder.i64().map_err(bad)?;
            let mantissa = decoder.i64().map_err(bad)?;
            // The decimal text is rounded once; powers of ten would round twice.
            format!("{mantissa}e{exponent}").parse().map_err(|_| malformed("fraction"))?
        }
        _ => decoder.int().map(i128::from).map_err(bad)? as f64,
    };
    finite(number)
}

/// Skips one value of an unknown field, definite lengths only.
fn skip(decoder: &mut Decoder<'_>, depth: u8) -> Result<(), SenmlError> {
    let bad = |_| malformed("unknown field");
    if depth > MAX_DEPTH {
        return Err(malformed("nested too deep"));
    }
    match decoder.datatype().map_err(bad)? {
        Type::Array => {
            for _ in 0..decoder.array().map_err(bad)?.unwrap_or(0) {
                skip(decoder, depth + 1)?;
            }
        }
        Type::Map => {
            for _ in 0..decoder.map().map_err(bad)?.unwrap_or(0) {
                skip(decoder, depth + 1)?;
                skip(decoder, depth + 1)?;
            }
        }
        Type::Tag => {
            decoder.tag().map_err(bad)?;
            skip(decoder, depth + 1)?;
        }
        Type::ArrayIndef | Type::MapIndef | Type::BytesIndef | Type::StringIndef | Type::Break => {
            return Err(malformed("indefinite length"));
        }
        _ => decoder.skip().map_err(bad)?,
    }
    Ok(())
}

/// Deepest nesting inside a field that is skipped.
const MAX_DEPTH: u8 = 8;

pub(super) fn write(pack: &Pack) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::with_capacity(64));
    let written = write_pack(&mut encoder, pack);
    written.expect("writing to a Vec cannot fail");
    encoder.into_writer()
}

type Written = Result<(), minicbor::encode::Error<std::convert::Infallible>>;

fn write_pack(encoder: &mut Encoder<Vec<u8>>, pack: &Pack) -> Written {
    encoder.array(pack.0.len() as u64)?;
    for record in &pack.0 {
        let fields = record.fields();
        encoder.map(fields.len() as u64)?;
        for (field, content) in fields {
            encoder.i8(field.key())?;
            match content {
                Content::Number(number) => write_number(encoder, number)?,
                Content::Text(text) => encoder.str(&text)?.ok()?,
                Content::Boolean(boolean) => encoder.bool(boolean)?.ok()?,
                Content::Data(data) => encoder.bytes(&data)?.ok()?,
            }
        }
    }
    Ok(())
}

fn write_number(encoder: &mut Encoder<Vec<u8>>, number: f64) -> Written {
    let integral = number.fract() == 0.0 && number.abs() <= MAX_EXACT;
    if integral && (number != 0.0 || number.is_sign_positive()) {
        return encoder.i64(number as i64)?.ok();
    }
    if let Some(half) = f64_to_half(number) {
        let [high, low] = half.to_be_bytes();
        encoder.writer_mut().extend_from_slice(&[HALF, high, low]);
        return Ok(());
    }
    let single = number as f32;
    if f64::from(single) == number {
        return encoder.f32(single)?.ok();
    }
    encoder.f64(number)?.ok()
}

/// 2^53: up to here every integer is a double.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// Initial byte of a half-precision float (RFC 8949 section 3.3).
const HALF: u8 = 0xF9;

/// RFC 8949 appendix D.
fn half_to_f64(half: u16) -> f64 {
    let exponent = i32::from(half >> 10 & 0x1F);
    let mantissa = f64::from(half & 0x3FF);
    let magnitude = match exponent {
        0 => mantissa * 2f64.powi(-24),
        31 if mantissa == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (mantissa + 1024.0) * 2f64.powi(exponent - 25),
    };
    if half & 0x8000 == 0 { magnitude } else { -magnitude }
}

/// The half that is exactly `number`, if there is one among the normal halves and the zeros.
fn f64_to_half(number: f64) -> Option<u16> {
    let bits = number.to_bits();
    let sign = ((bits >> 48) & 0x8000) as u16;
    if number == 0.0 {
        return Some(sign);
    }
    let exponent = ((bits >> 52) & 0x7FF) as i32 - 1023;
    let mantissa = bits & ((1 << 52) - 1);
    let fits = (-14..=15).contains(&exponent) && mantissa.trailing_zeros() >= 42;
    fits.then(|| sign | (((exponent + 15) as u16) << 10) | (mantissa >> 42) as u16)
}

fn malformed(what: &'static str) -> SenmlError {
    SenmlError::Malformed(what)
}
