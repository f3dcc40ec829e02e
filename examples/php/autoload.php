<?php
// Finds Thrift's classes where Debian's php-thrift puts them, those generated for Roster in php/gen, and those of the
// article in gen/php.
spl_autoload_register(static function (string $class): void {
    $root = __DIR__ . '/../..';
    $folders = ['Thrift/' => '/usr/lib/php', 'Roster/Thrift/' => "$root/php/gen", 'tutorial/' => "$root/gen/php/tutorial"];
    $file = str_replace('\\', '/', $class) . '.php';
    foreach ($folders as $prefix => $folder) {
        $path = "$folder/" . substr($file, strlen($prefix));
        if (str_starts_with($file, $prefix) && is_file($path)) {
            require $path;
        }
    }
});
