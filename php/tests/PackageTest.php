<?php

declare(strict_types=1);

namespace Roster\Tests;

use PHPUnit\Framework\TestCase;
use Roster\Client;
use Roster\Read\Picks;
use Roster\Tests\Support\Folder;
use Roster\Tests\Support\SharedFile;
use Roster\Tests\Support\Skip;

/** The package is whole, and can be installed. */
final class PackageTest extends TestCase
{
    private const PACKAGE = __DIR__ . '/..';

    public function testItsComposerFileIsValid(): void
    {
        self::needComposer();
        exec('composer validate --strict --no-interaction ' . self::PACKAGE . '/composer.json 2>&1', $output, $code);
        self::assertSame(0, $code, implode("\n", $output));
    }

    public function testComposerInstallsItFromAPath(): void
    {
        self::needComposer();
        $folder = new Folder();
        $folder->file('composer.json', json_encode([
            'repositories' => [
                ['type' => 'path', 'url' => realpath(self::PACKAGE), 'options' => ['symlink' => false]],
                ['packagist.org' => false],
            ],
            'require' => ['roster/client' => '@dev'],
        ]));
        exec("COMPOSER_ALLOW_SUPERUSER=1 composer install --no-interaction -d $folder->path 2>&1", $output, $code);
        self::assertSame(0, $code, implode("\n", $output));
        $this->assertReads("$folder->path/vendor/autoload.php");
    }

    public function testItWorksWithoutComposer(): void
    {
        $this->assertReads(self::PACKAGE . '/autoload.php');
    }

    public function testPreloadedClassesAreThereBeforeAPageLoadsAnything(): void
    {
        self::assertSame(
            ['Roster\Client Roster\DefaultPaths Roster\Freshness Roster\Node Roster\Origin Roster\Quiet '
                . 'Roster\Read\Hydrator Roster\Read\Picks Roster\Read\SharedFile Roster\Read\WarmUp '
                . 'Roster\Resolved Roster\Transport'],
            self::preloaded('echo implode(" ", array_filter(get_declared_classes(), '
                . 'fn ($class) => str_starts_with($class, "Roster")));'),
        );
    }

    /** @requires extension dba */
    public function testAPageWithPreloadedClassesReadsAndResolvesWithoutLoadingMore(): void
    {
        $file = new SharedFile(['/a' => 'x'], ['supplies' => ['nodes', 'instances']]);
        $hash = Picks::hash('h:1');
        $file->write([
            'pick/web' => '{"version":"1.0.0","count":1,"heaviest":7}',
            "lots/web\0001.0.0\0000" => pack('JN', $hash, 7) . substr(pack('J', $hash), 4),
            "instance/web\0001.0.0\0000" => '{"endpoints":[{"host":"h","port":1}]}',
        ]);
        $code = '$before = get_declared_classes();'
            . '$roster = Roster\Client::local("", "", $argv[1]);'
            . 'echo $roster->get("/a")->data, " ", $roster->resolve("web", key: "k")->address(), " ", '
            . '$roster->resolve("web")->address(), " ", implode(" ", array_diff(get_declared_classes(), $before)), ".";';
        self::assertSame(['x h:1 h:1 .'], self::preloaded($code, $file->path));
    }

    /** @return list<string> what this prints in a process with the preloaded classes */
    private static function preloaded(string $code, string ...$arguments): array
    {
        if (!extension_loaded('Zend OPcache')) {
            Skip::because('OPcache is not there');
        }
        $user = posix_getpwuid(posix_getuid())['name'];
        $settings = "-d opcache.enable_cli=1 -d opcache.preload_user=$user -d opcache.preload="
            . escapeshellarg(self::PACKAGE . '/preload.php');
        $given = implode(' ', array_map(escapeshellarg(...), [$code, ...$arguments]));
        exec(PHP_BINARY . " $settings -r $given 2>&1", $told);
        return $told;
    }

    /** Everything that a release holds loads: a reader of each kind is tried. */
    private function assertReads(string $autoload): void
    {
        $code = 'require $argv[1];'
            . 'foreach (Roster\Client::local("/none", "127.0.0.1:1")->explain(true) as $attempt) { echo "$attempt\n"; }';
        exec(PHP_BINARY . ' -r ' . escapeshellarg($code) . ' ' . escapeshellarg($autoload) . ' 2>&1', $told, $status);
        self::assertSame(0, $status, implode("\n", $told));
        self::assertSame('unix:///none: cannot connect: [2] No such file or directory', $told[1]);
    }

    public function testEveryFileIsStrict(): void
    {
        $source = new \RecursiveIteratorIterator(new \RecursiveDirectoryIterator(self::PACKAGE . '/src'));
        foreach (new \RegexIterator($source, '/\.php$/') as $path => $file) {
            self::assertStringContainsString('declare(strict_types=1);', file_get_contents($path), $path);
            $class = 'Roster\\' . strtr(substr($path, strlen(self::PACKAGE . '/src/'), -4), '/', '\\');
            self::assertTrue(class_exists($class) || interface_exists($class) || enum_exists($class), $class);
        }
    }

    public function testAnApplicationsTestsMayPutAMockInTheClientsPlace(): void
    {
        $client = $this->createStub(Client::class);
        $client->method('get')->willReturn('mocked');
        self::assertSame('mocked', $client->get('/a'));
    }

    private static function needComposer(): void
    {
        exec('command -v composer', $found, $code);
        if ($code !== 0) {
            Skip::because('composer is not installed');
        }
    }
}
