<?php
// Finds Thrift's classes where Debian's php-thrift puts them, and those generated for Roster in gen/php.
spl_autoload_register(static function (string $class): void {
    $file = str_replace('\\', '/', $class) . '.php';
    $thrift = str_starts_with($file, 'Thrift/');
    $path = $thrift ? '/usr/lib/php/' . substr($file, strlen('Thrift/')) : __DIR__ . "/../../gen/php/$file";
    if (is_file($path)) {
        require $path;
    }
});
