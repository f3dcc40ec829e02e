<?php
// Unserializes each line of its input, which is in hexadecimal, and describes what that is.

function described(mixed $value): string
{
    return match (true) {
        is_int($value) => "i$value",
        is_float($value) => is_nan($value) ? 'nan' : 'f' . bin2hex(pack('E', $value)),
        is_string($value) => 's' . bin2hex($value),
        is_array($value) => '[' . implode('', array_map(
            fn ($key, $item) => described($key) . '=' . described($item) . ',',
            array_keys($value),
            $value,
        )) . ']',
        default => json_encode($value),
    };
}

foreach (file('php://stdin', FILE_IGNORE_NEW_LINES) as $line) {
    echo described(unserialize(hex2bin($line), ['allowed_classes' => false])), "\n";
}
