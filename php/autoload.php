<?php

/**
 * Finds the classes of this package without Composer, and Thrift's where Debian's php-thrift puts them.
 *
 * With Composer it comes after Composer's own autoloader, so that an apache/thrift in vendor/ goes first.
 */

declare(strict_types=1);

spl_autoload_register(static function (string $class): void {
    static $folders = [
        'Roster\\Thrift\\' => __DIR__ . '/gen/',
        'Roster\\' => __DIR__ . '/src/',
        'Thrift\\' => '/usr/lib/php/',
    ];
    // What `open_basedir` leaves out is not there, and no application hears PHP's warning.
    static $isFree = null;
    $isFree ??= (string) ini_get('open_basedir') === '';
    $isReadable = static function (string $file): bool {
        set_error_handler(static fn (): bool => true);
        try {
            return is_readable($file);
        } finally {
            restore_error_handler();
        }
    };
    foreach ($folders as $prefix => $folder) {
        if (str_starts_with($class, $prefix)) {
            $file = $folder . strtr(substr($class, strlen($prefix)), '\\', '/') . '.php';
            // Unlike is_file, this asks no file system for what OPcache has.
            if (stream_resolve_include_path($file) !== false && ($isFree || $isReadable($file))) {
                require $file;
            }
            return;
        }
    }
});
