//! Published vectors, a second implementation, and what must hold of any key and block.

use proptest::prelude::*;
use xts_mode::{Xts128, get_tweak_default};

use super::*;

const E: &str = "2718281828459045235360287471352662497757247093699959574966967627";
const PI: &str = "3141592653589793238462643383279502884197169399375105820974944592";

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn cipher_of(data: &str, tweak: &str) -> VolumeCipher {
    let bytes = [hex(data), hex(tweak)].concat();
    VolumeCipher::new(&DataKey::from_bytes(&bytes.try_into().unwrap()).unwrap())
}

/// 512 bytes that count up, as in the vectors 10 to 14 of IEEE 1619-2007, annex B.
fn counting() -> Vec<u8> {
    (0..512_u32).map(|i| u8::try_from(i % 256).unwrap()).collect()
}

const VECTOR_10: &str = "
    1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b5d31e276f8fe4a8d66b317f9ac683f44
    680a86ac35adfc3345befecb4bb188fd5776926c49a3095eb108fd1098baec70aaa66999a72a82f27d848b21d4a741b0
    c5cd4d5fff9dac89aeba122961d03a757123e9870f8acf1000020887891429ca2a3e7a7d7df7b10355165c8b9a6d0a7d
    e8b062c4500dc4cd120c0f7418dae3d0b5781c34803fa75421c790dfe1de1834f280d7667b327f6c8cd7557e12ac3a0f
    93ec05c52e0493ef31a12d3d9260f79a289d6a379bc70c50841473d1a8cc81ec583e9645e07b8d9670655ba5bbcfecc6
    dc3966380ad8fecb17b6ba02469a020a84e18e8f84252070c13e9f1f289be54fbc481457778f616015e1327a02b140f1
    505eb309326d68378f8374595c849d84f4c333ec4423885143cb47bd71c5edae9be69a2ffeceb1bec9de244fbe15992b
    11b77c040f12bd8f6a975a44a0f90c29a9abc3d4d893927284c58754cce294529f8614dcd2aba991925fedc4ae74ffac
    6e333b93eb4aff0479da9a410e4450e0dd7ae4c6e2910900575da401fc07059f645e8b7e9bfdef33943054ff84011493
    c27b3429eaedb4ed5376441a77ed43851ad77f16f541dfd269d50d6a5f14fb0aab1cbb4c1550be97f7ab4066193c4caa
    773dad38014bd2092fa755c824bb5e54c4f36ffda9fcea70b9c6e693e148c151";

const VECTOR_11_BEGINS: &str = "77a31251618a15e6b92d1d66dffe7b50b50bad552305ba0217a610688eff7e11";

#[test]
fn the_vectors_of_ieee_1619_come_out() {
    let cipher = cipher_of(E, PI);
    let mut out = vec![0; 512];
    cipher.encrypt_unit(0xFF, &counting(), &mut out);
    assert_eq!(out, hex(VECTOR_10), "vector 10");
    let mut back = vec![0; 512];
    cipher.decrypt_unit(0xFF, &out, &mut back);
    assert_eq!(back, counting());
    cipher.encrypt_unit(0xFFFF, &counting(), &mut out);
    assert_eq!(out[..32], hex(VECTOR_11_BEGINS), "vector 11");
}

/// A data unit of 4 KiB begins as one of 512 bytes with the same beginning does: no byte depends on those behind it.
#[test]
fn a_block_begins_with_the_published_vector() {
    let cipher = cipher_of(E, PI);
    let mut plain = counting();
    plain.resize(UNIT_BYTES, 0x5A);
    let mut out = vec![0; UNIT_BYTES];
    cipher.encrypt(Lba(0xFF), &plain, &mut out);
    assert_eq!(out[..512], hex(VECTOR_10));
}

#[test]
fn the_cipher_is_never_shown() {
    let cipher = cipher_of(E, PI);
    assert_eq!(format!("{cipher:?}"), "VolumeCipher(aes-256-xts)");
}

#[test]
#[should_panic(expected = "whole blocks")]
fn half_a_block_is_refused() {
    cipher_of(E, PI).encrypt(Lba(0), &[0; 512], &mut [0; 512]);
}

fn some_key() -> impl Strategy<Value = [u8; DATA_KEY_BYTES]> {
    proptest::collection::vec(any::<u8>(), DATA_KEY_BYTES).prop_map(|bytes| bytes.try_into().unwrap())
}

fn some_blocks() -> impl Strategy<Value = Vec<u8>> {
    (1..5_usize, any::<[u8; 32]>()).prop_map(|(blocks, seed)| {
        let bytes = seed.iter().copied().cycle().take(blocks * UNIT_BYTES);
        bytes
            .enumerate()
            .map(|(i, byte)| byte.wrapping_add(u8::try_from(i / 32 % 256).unwrap()))
            .collect()
    })
}

proptest! {
    /// Blocks of any number come out as another implementation has them, and come back.
    #[test]
    fn another_implementation_agrees(key in some_key(), plain in some_blocks(), first in 0..(1_u64 << 52)) {
        let cipher = VolumeCipher::new(&DataKey::from_bytes(&key).unwrap());
        let mut out = vec![0; plain.len()];
        cipher.encrypt(Lba(first), &plain, &mut out);

        let halves = [&key[..32], &key[32..]].map(|half| Aes256::new_from_slice(half).unwrap());
        let [data, tweak] = halves;
        let mut theirs = plain.clone();
        Xts128::<Aes256>::new(data, tweak).encrypt_area(&mut theirs, UNIT_BYTES, u128::from(first), get_tweak_default);
        prop_assert_eq!(&out, &theirs);

        let mut back = vec![0; plain.len()];
        cipher.decrypt(Lba(first), &out, &mut back);
        prop_assert_eq!(back, plain);
    }

    /// Equal blocks at different places, or under different keys, have no 16 bytes in common.
    #[test]
    fn equal_blocks_elsewhere_look_different(key in some_key(), plain in some_blocks(), one in any::<u32>(), two in any::<u32>()) {
        prop_assume!(one != two);
        let plain = &plain[..UNIT_BYTES];
        let cipher = VolumeCipher::new(&DataKey::from_bytes(&key).unwrap());
        let at = |cipher: &VolumeCipher, number: u32| {
            let mut out = vec![0; UNIT_BYTES];
            cipher.encrypt(Lba(number.into()), plain, &mut out);
            out
        };
        let here = at(&cipher, one);
        let mut other = key;
        other[0] ^= 1;
        let other = VolumeCipher::new(&DataKey::from_bytes(&other).unwrap());
        for elsewhere in [at(&cipher, two), at(&other, one)] {
            let same = here.chunks(16).zip(elsewhere.chunks(16)).filter(|(a, b)| a == b).count();
            prop_assert_eq!(same, 0);
        }
        prop_assert!(here.chunks(16).zip(plain.chunks(16)).all(|(a, b)| a != b));
    }
}
