<?php

declare(strict_types=1);

namespace Roster\Tests\Support;

/** A new folder, which goes when it is let go. */
final class Folder
{
    public readonly string $path;

    public function __construct()
    {
        $this->path = sys_get_temp_dir() . '/roster-php-' . bin2hex(random_bytes(6));
        mkdir($this->path);
        chmod($this->path, 0755);
    }

    public function __destruct()
    {
        $inside = new \RecursiveDirectoryIterator($this->path, \FilesystemIterator::SKIP_DOTS);
        foreach (new \RecursiveIteratorIterator($inside, \RecursiveIteratorIterator::CHILD_FIRST) as $path => $entry) {
            $entry->isDir() && !$entry->isLink() ? @rmdir($path) : @unlink($path);
        }
        @rmdir($this->path);
    }

    public function file(string $name, string $text): string
    {
        file_put_contents("$this->path/$name", $text);
        return "$this->path/$name";
    }
}
