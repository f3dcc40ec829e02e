<?php

declare(strict_types=1);

namespace Roster\Tests\Support;

/** A shared file, written with PHP's own dba as the sidecar writes it. */
final class SharedFile
{
    public readonly string $path;
    private readonly Folder $folder;
    private int $revision;

    /** @param array<string, string> $data by path */
    public function __construct(array $data, array $source = [], int $silenceMs = 0, int $revision = 5)
    {
        $this->revision = $revision;
        $this->folder = new Folder();
        $this->path = "{$this->folder->path}/shared.mdb";
        $this->write(['meta/format' => '2']);
        $this->set($data, $source, $silenceMs);
    }

    /**
     * @param array<string, string> $data by path
     * @param array<string, mixed> $source what is otherwise than in a source in sync
     */
    public function set(array $data, array $source = [], int $silenceMs = 0): void
    {
        foreach ($data as $path => $bytes) {
            $this->write([self::key('node', $path) => $bytes, self::key('stat', $path) => self::stat($path)]);
        }
        $source += [
            'name' => 'zookeeper', 'kind' => 'zookeeper', 'identity' => 'zk1:2181', 'supplies' => ['nodes'],
            'roots' => ['/'], 'whole' => true,
            'ageMs' => 0, 'lastSync' => 1, 'origin' => 'LIVE', 'skippedNodes' => 0,
        ];
        $writtenAt = (int) (microtime(true) * 1_000) - $silenceMs;
        $freshness = [
            'revision' => $this->revision++,
            'ageMs' => (int) $source['ageMs'],
            'origin' => $source['origin'],
            'complete' => $source['whole'] && $source['skippedNodes'] === 0,
            'writtenAt' => $writtenAt,
            'sources' => [$source],
        ];
        $this->write(['meta/freshness' => json_encode($freshness)]);
    }

    /** @param array<string, string> $entries */
    public function write(array $entries): void
    {
        // In a process of its own: LMDB must not open a file twice in one.
        $code = '$d = dba_open($argv[1], "c", "lmdb");'
            . 'foreach (unserialize(stream_get_contents(STDIN)) as $k => $v) { dba_replace($k, $v, $d) || exit(1); }';
        $writer = proc_open([PHP_BINARY, '-r', $code, $this->path], [['pipe', 'r'], STDOUT, STDERR], $pipes);
        fwrite($pipes[0], serialize($entries));
        fclose($pipes[0]);
        proc_close($writer) === 0 || throw new \RuntimeException('the shared file cannot be written');
    }

    /** Another file takes its place, as when a damaged one is set aside. */
    public function replace(array $data): void
    {
        foreach (['', '-lock'] as $suffix) {
            rename($this->path . $suffix, "$this->path$suffix.old");
        }
        $this->write(['meta/format' => '2']);
        $this->set($data);
    }

    private static function key(string $kind, string $path): string
    {
        return strlen($path) > 500 ? "$kind#" . hash('sha256', $path) : $kind . $path;
    }

    private static function stat(string $path): string
    {
        $names = ['version', 'czxid', 'mzxid', 'pzxid', 'ctime', 'mtime', 'ephemeralOwner', 'numChildren'];
        $stat = array_combine($names, range(1, 8));
        return json_encode(strlen($path) > 500 ? ['path' => $path] + $stat : $stat);
    }
}
