"""The bytes of pictures and videos: decoding, scaling, encoding and drawing."""
